//! A node: it runs pods as any does, and nothing of it is left when the lab is down.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use lab::{Lab, Options, TOOLS_IMAGE, Tool, until};
use std::{collections::BTreeSet, fs, process::Command, time::Duration};

/// What a node leaves is looked for on the whole machine, so there is one at a time.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

const SOON: Duration = Duration::from_secs(60);
/// The kubelet looks at a new container every 10 to 15 s, and two looks make a figure.
const FIGURES_WITHIN: Duration = Duration::from_secs(120);

/// What a node might leave on this machine: mounts, links, rules, sets and control groups.
fn traces() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for entry in fs::read_dir("/sys/class/net").unwrap() {
        all.insert(format!("link {}", entry.unwrap().file_name().display()));
    }
    for mount in fs::read_to_string("/proc/mounts").unwrap().lines() {
        all.insert(format!("mount {mount}"));
    }
    for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap() {
        let hierarchy = hierarchy.unwrap().path();
        for group in fs::read_dir(&hierarchy).into_iter().flatten().flatten() {
            if group.file_type().unwrap().is_dir() {
                all.insert(format!("cgroup {}", group.path().display()));
            }
        }
    }
    for (what, program, args) in [
        ("nft", "nft", &["list", "ruleset"][..]),
        ("iptables", "iptables-save", &[]),
        ("ipset", "ipset", &["list", "-n"]),
    ] {
        // A program that is not there yet has made no rules.
        let Ok(output) = Command::new(program).args(args).output() else { continue };
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        // iptables-save begins and ends with the time, and its counters move.
        let rules = text.lines().filter(|line| !line.starts_with(['#', ':']) && !line.contains("counter"));
        all.extend(rules.map(|line| format!("{what} {line}")));
    }
    for sysctl in ["vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys"] {
        all.insert(format!("{sysctl} {}", fs::read_to_string(format!("/proc/sys/{sysctl}")).unwrap().trim()));
    }
    all
}

async fn nothing_more_than(before: &BTreeSet<String>) {
    until("everything of the node to be gone", SOON, || async {
        let now = traces();
        let more: Vec<_> = now.difference(before).collect();
        if more.is_empty() { Ok(()) } else { Err(format!("{more:#?}")) }
    })
    .await
    .unwrap();
}

const CLOSED: &str = r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed}
spec:
  podSelector: {matchLabels: {run: server}}
  ingress: [{from: [{podSelector: {matchLabels: {run: friend}}}]}]
"#;

async fn pod(kubectl: &Tool, name: &str, command: &str) {
    let image = format!("--image={TOOLS_IMAGE}");
    kubectl.stdout(&["run", name, &image, "--restart=Never", "--", "sh", "-c", command]).await.unwrap();
    kubectl.stdout(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=60s"]).await.unwrap();
}

/// Whether a pod gets an answer of the server by its Service's name.
async fn reaches(kubectl: &Tool, from: &str) -> bool {
    let ask = "socat -u TCP:server.default.svc.cluster.local:7000,connect-timeout=2 -";
    let output = kubectl.run(&["exec", from, "--", "sh", "-c", ask]).await.unwrap();
    output.stdout == "answer\n"
}

async fn answered(kubectl: &Tool, from: &str) -> Result<(), String> {
    if reaches(kubectl, from).await { Ok(()) } else { Err(format!("{from} has no answer")) }
}

#[tokio::test]
async fn a_node_runs_pods_and_goes_without_a_trace() {
    let _turn = TURN.lock().await;
    let before = traces();
    let lab = Lab::start(Options { services: false, node: true, ..Options::default() }).await.unwrap();
    let kubectl = lab.direct();
    until("the namespace's ServiceAccount", SOON, || kubectl.stdout(&["get", "serviceaccount", "default"]))
        .await
        .unwrap();
    tokio::join!(
        pod(kubectl, "server", "socat TCP-LISTEN:7000,fork,reuseaddr EXEC:'echo answer'"),
        pod(kubectl, "friend", "sleep infinity"),
        pod(kubectl, "stranger", "sleep infinity"),
    );
    kubectl.stdout(&["expose", "pod", "server", "--port=7000"]).await.unwrap();
    for from in ["friend", "stranger"] {
        until("an answer by the Service's name", SOON, || answered(kubectl, from)).await.unwrap();
    }
    kubectl.stdout_with_input(&["apply", "-f", "-"], CLOSED).await.unwrap();
    until("the policy to shut strangers out", SOON, || async {
        if reaches(kubectl, "stranger").await { Err("it answers") } else { Ok(()) }
    })
    .await
    .unwrap();
    until("the friend to be let in", SOON, || answered(kubectl, "friend")).await.unwrap();

    until("figures of the pods", FIGURES_WITHIN, || kubectl.stdout(&["top", "pod", "server"])).await.unwrap();

    // Two of them do not get in each other's way, though their pods have the same addresses.
    let second = Lab::start(Options { services: false, node: true, ..Options::default() }).await.unwrap();
    assert!(second.direct().run(&["get", "pod", "server"]).await.unwrap().stderr.contains("NotFound"));
    second.stop().await.unwrap();
    until("the friend to be let in", SOON, || answered(kubectl, "friend")).await.unwrap();
    lab.stop().await.unwrap();
    nothing_more_than(&before).await;
}

#[tokio::test]
async fn a_dropped_node_is_cleaned_up_after() {
    let _turn = TURN.lock().await;
    let before = traces();
    let lab = Lab::start(Options { services: false, node: true, ..Options::default() }).await.unwrap();
    let pids: Vec<u32> = lab.processes().iter().filter_map(|process| process.pid()).collect();
    assert!(pids.len() >= 9, "{pids:?}");
    drop(lab);
    nothing_more_than(&before).await;
    assert!(pids.iter().all(|pid| !fs::exists(format!("/proc/{pid}")).unwrap()));
}
