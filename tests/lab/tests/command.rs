//! `cargo lab` itself: one lab at a time, and nothing left behind.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use lab::{Lab, Options, until};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

const LAB: &str = env!("CARGO_BIN_EXE_lab");
const SOON: Duration = Duration::from_secs(15);
/// The services may have to be built.
const UP_WITHIN: Duration = Duration::from_secs(1800);

/// A state folder of the test's own; the cache of parts is the user's.
struct State(PathBuf);

impl State {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("lab-test-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(LAB);
        command.args(args).env("XDG_STATE_HOME", &self.0);
        command
    }

    fn lab(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = self.lab(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn refused(&self, args: &[&str]) -> String {
        let output = self.lab(args);
        assert!(!output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Process ids of everything that was started from this folder: a service has it in its environment only.
    fn processes(&self) -> Vec<u32> {
        let folder = self.0.to_string_lossy().into_owned();
        let ours = |pid: &u32| {
            let says = |file| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            ["cmdline", "environ"].map(says).iter().any(|text| String::from_utf8_lossy(text).contains(&folder))
        };
        let all = fs::read_dir("/proc").unwrap();
        all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).filter(ours).collect()
    }

    async fn empty(&self) {
        until("every process to end", SOON, || async {
            let left = self.processes();
            if left.is_empty() { Ok(()) } else { Err(format!("processes {left:?}")) }
        })
        .await
        .unwrap();
    }
}

impl Drop for State {
    fn drop(&mut self) {
        drop(self.lab(&["down"]));
        drop(fs::remove_dir_all(&self.0));
    }
}

async fn cluster() -> Lab {
    Lab::start(Options { services: false, ..Options::default() }).await.unwrap()
}

/// What is of a lab's in a cluster that exists: a release, a namespace, roles and bindings.
async fn put_into(cluster: &Lab) -> Vec<String> {
    let objects = ["get", "namespaces,clusterroles,clusterrolebindings", "-o", "name"];
    let objects = cluster.admin().stdout(&objects).await.unwrap();
    let releases = cluster.helm_direct(&["list", "--all", "--all-namespaces", "--short"]).await.unwrap();
    assert!(releases.success(), "{releases:?}");
    let releases = releases.stdout.lines().map(|name| format!("release/{name}"));
    let ours = objects.lines().filter(|name| name.contains("pipeops-lab")).map(str::to_owned);
    releases.chain(ours).collect()
}

fn signal(signal: &str, pid: u32) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

fn owner(status: &str) -> u32 {
    let (_, rest) = status.split_once("(process ").unwrap();
    rest.split_once(')').unwrap().0.parse().unwrap()
}

#[tokio::test]
async fn there_is_one_lab_and_down_ends_it() {
    let state = State::new("one");
    assert!(state.refused(&["status"]).contains("no lab is up"));
    let shown = state.ok(&["up", "--no-services", "--detach"]);
    assert!(shown.contains("kube-system") && shown.contains("Try next"), "{shown}");

    let status = state.ok(&["status"]);
    let pid = owner(&status);
    for name in ["etcd", "kube-apiserver", "kube-controller-manager"] {
        assert!(status.lines().any(|line| line.starts_with(name) && line.ends_with("ready")), "{status}");
    }
    for args in [&["up", "--no-services"][..], &["up", "--no-services", "--detach"]] {
        let refused = state.refused(args);
        assert!(refused.contains(&pid.to_string()) && refused.contains("cargo lab down"), "{refused}");
    }
    let kubeconfig = state.ok(&["kubeconfig", "--direct"]);
    assert!(Path::new(kubeconfig.trim()).is_file());
    assert!(state.refused(&["kubeconfig"]).contains("there is none"));
    assert!(state.ok(&["logs", "kube-apiserver"]).contains("Serving securely"));
    assert!(state.refused(&["logs", "nothing"]).contains("kube-apiserver"));

    assert_eq!(state.ok(&["down"]), "the lab is down\n");
    state.empty().await;
    assert_eq!(state.ok(&["down"]), "nothing of the lab runs\n");
}

#[tokio::test]
async fn a_killed_lab_leaves_nothing_and_does_not_stand_in_the_way() {
    let state = State::new("killed");
    state.ok(&["up", "--no-services", "--detach"]);
    let pid = owner(&state.ok(&["status"]));
    assert!(state.processes().len() >= 3);
    signal("-KILL", pid);
    state.empty().await;
    // A process that is being killed is still one for a moment after it has lost its command line.
    let status = until("the lab to have ended", SOON, || async {
        let output = state.lab(&["status"]);
        if output.status.success() { Err(format!("{output:?}")) } else { Ok(output) }
    });
    assert!(String::from_utf8(status.await.unwrap().stderr).unwrap().contains("no lab is up"));
    assert!(state.ok(&["logs", "kube-apiserver"]).contains("Serving securely"));
    state.ok(&["up", "--no-services", "--detach"]);
    state.ok(&["down"]);
    state.empty().await;
}

/// Links of labs' nodes on this machine, and their control groups.
fn of_nodes() -> Vec<PathBuf> {
    let groups = fs::read_dir("/sys/fs/cgroup").unwrap().map(|hierarchy| hierarchy.unwrap().path());
    let all = groups.chain(["/sys/class/net".into()]).filter_map(|folder| fs::read_dir(folder).ok()).flatten();
    let named = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("lab-"));
    all.map(|entry| entry.unwrap().path()).filter(named).collect()
}

#[tokio::test]
async fn a_killed_lab_leaves_nothing_of_its_node() {
    let (state, before) = (State::new("node"), of_nodes());
    let shown = state.ok(&["up", "--node", "--detach"]);
    assert!(shown.contains("through the agent") && shown.contains("pipeops-system"), "{shown}");
    let status = state.ok(&["status"]);
    for name in ["kubelet", "containerd", "kube-proxy", "kube-router", "control-plane"] {
        assert!(status.lines().any(|line| line.starts_with(name) && line.ends_with("ready")), "{status}");
    }
    assert!(!status.contains("gateway-link "), "it is a pod: {status}");
    let is_pod =
        |line: &str| line.contains("pipeops-system") && line.contains("gateway-link-") && line.contains("Running");
    assert!(status.lines().any(is_pod), "{status}");
    let logged = state.ok(&["logs", "gateway-link"]);
    assert!(logged.starts_with('{') && logged.contains("registered"), "{logged}");
    assert!(state.refused(&["logs", "nothing"]).contains("coredns"));
    assert!(state.refused(&["up", "--node"]).contains("a lab is up already"));
    assert!(of_nodes().len() > before.len());

    signal("-KILL", owner(&status));
    // The kernel ends what the lab has started, pods and all.
    state.empty().await;
    assert_eq!(state.ok(&["down"]), "the lab is down\n");
    let left: Vec<_> = of_nodes().into_iter().filter(|path| !before.contains(path)).collect();
    assert_eq!(left, Vec::<PathBuf>::new());
    assert_eq!(state.ok(&["down"]), "nothing of the lab runs\n");
}

#[tokio::test]
async fn a_lab_with_services_comes_up_works_and_goes() {
    let state = State::new("services");
    let shown = state.ok(&["up", "--detach"]);
    assert!(shown.contains("through the agent") && shown.contains("kube-system"), "{shown}");

    let status = state.ok(&["status"]);
    for name in ["control-plane", "nats-server", "gateway-link", "proxy-executor", "route-syncer", "state-keeper"] {
        assert!(status.lines().any(|line| line.starts_with(name) && line.ends_with("ready")), "{status}");
    }
    let kubectl = state.ok(&["parts"]);
    let kubectl = kubectl.lines().find(|line| line.starts_with("kubectl ")).unwrap();
    let kubectl = kubectl.split_whitespace().last().unwrap();
    for (which, way) in [(&["kubeconfig"][..], "/api/v1/clusters/agent/lab/proxy"), (&["kubeconfig", "--direct"], "")] {
        let kubeconfig = state.ok(which);
        let kubectl = |args: &[&str]| {
            let output = Command::new(kubectl).args(args).env("KUBECONFIG", kubeconfig.trim()).output().unwrap();
            assert!(output.status.success(), "{which:?} {args:?}: {output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        assert!(kubectl(&["config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"]).ends_with(way));
        assert!(kubectl(&["get", "namespaces", "-o", "name"]).contains("namespace/pipeops-system"));
    }

    assert_eq!(state.ok(&["down"]), "the lab is down\n");
    state.empty().await;
    assert!(state.refused(&["status"]).contains("no lab is up"));
    assert_eq!(state.ok(&["down"]), "nothing of the lab runs\n");
}

#[tokio::test]
async fn a_killed_lab_comes_out_of_a_cluster_that_exists() {
    let (cluster, state) = (cluster().await, State::new("existing"));
    let kubeconfig = cluster.admin().kubeconfig().to_str().unwrap();
    state.ok(&["up", "--detach", "--no-services", "--kubeconfig", kubeconfig]);
    assert_eq!(put_into(&cluster).await, Vec::<String>::new(), "without services there is nothing to put there");
    state.ok(&["down"]);

    // A copy that leads nowhere any more when the lab is to be taken out: the user may go on to another context.
    let theirs = state.0.join("theirs.kubeconfig");
    fs::copy(kubeconfig, &theirs).unwrap();
    let shown = state.ok(&["up", "--detach", "--kubeconfig", theirs.to_str().unwrap()]);
    assert!(!shown.contains("create deployment"), "{shown}");
    fs::remove_file(&theirs).unwrap();
    let there = put_into(&cluster).await;
    for name in ["release/pipeops-lab", "namespace/pipeops-lab", "pipeops-lab-admins"] {
        assert!(there.iter().any(|object| object.ends_with(name)), "no {name} in {there:?}");
    }
    signal("-KILL", owner(&state.ok(&["status"])));
    state.empty().await;
    assert_eq!(put_into(&cluster).await, there);

    let api_server = cluster.process("kube-apiserver").unwrap();
    api_server.kill().await.unwrap();
    let refused = state.refused(&["down"]);
    for part in [cluster.api_url(), "helm uninstall", "delete clusterrolebindings", "delete namespace", "state.json"] {
        assert!(refused.contains(part), "no {part} in {refused}");
    }
    api_server.start().await.unwrap();
    api_server.wait_ready(SOON).await.unwrap();

    assert_eq!(state.ok(&["down"]), "the lab is down\n");
    assert_eq!(put_into(&cluster).await, Vec::<String>::new());
    assert_eq!(state.ok(&["down"]), "nothing of the lab runs\n");
    cluster.stop().await.unwrap();
}

/// Ends with the test.
struct Foreground(Child);

impl Drop for Foreground {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[tokio::test]
async fn a_lab_that_is_interrupted_at_its_start_comes_out_of_a_cluster_that_exists() {
    let (cluster, state) = (cluster().await, State::new("interrupted"));
    let mut command = state.command(&["up", "--kubeconfig", cluster.admin().kubeconfig().to_str().unwrap()]);
    let log = state.0.join("up.log");
    let mut up = Foreground(command.stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap()).spawn().unwrap());
    until("the lab's release to be in the cluster", UP_WITHIN, || {
        let ended = up.0.try_wait().unwrap();
        assert!(ended.is_none(), "{ended:?}: {}", fs::read_to_string(&log).unwrap());
        let there = put_into(&cluster);
        async {
            let there = there.await;
            if there.iter().any(|name| name == "release/pipeops-lab") { Ok(()) } else { Err(format!("{there:?}")) }
        }
    })
    .await
    .unwrap();
    signal("-INT", up.0.id());
    up.0.wait().unwrap();
    assert_eq!(put_into(&cluster).await, Vec::<String>::new(), "{}", fs::read_to_string(&log).unwrap());
    state.empty().await;
    assert_eq!(state.ok(&["down"]), "nothing of the lab runs\n");
    cluster.stop().await.unwrap();
}

#[test]
fn a_kubeconfig_that_leads_nowhere_is_an_error() {
    let state = State::new("nowhere");
    let file = state.0.join("kubeconfig");
    fs::write(&file, "apiVersion: v1\nkind: Config\n").unwrap();
    let refused = state.refused(&["up", "--no-services", "--kubeconfig", file.to_str().unwrap()]);
    assert!(refused.contains("kubeconfig"), "{refused}");
}

#[test]
fn the_parts_say_where_they_are_from() {
    let parts = State::new("parts").ok(&["parts"]);
    for binary in [
        "kube-apiserver",
        "kube-controller-manager",
        "kubectl",
        "etcd",
        "nats-server",
        "helm",
        "konnectivity-server",
        "chisel",
    ] {
        let line = parts.lines().find(|line| line.split_whitespace().next() == Some(binary));
        assert!(line.is_some_and(|line| line.contains('/')), "{binary}: {parts}");
    }
}
