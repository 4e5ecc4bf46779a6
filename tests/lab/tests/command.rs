//! `cargo lab` itself: one lab at a time, and nothing left behind.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

const LAB: &str = env!("CARGO_BIN_EXE_lab");
const SOON: Duration = Duration::from_secs(15);

/// A state folder of the test's own; the cache of parts is the user's.
struct State(PathBuf);

impl State {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("lab-test-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn lab(&self, args: &[&str]) -> Output {
        Command::new(LAB).args(args).env("XDG_STATE_HOME", &self.0).output().unwrap()
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

    /// Process ids of everything that was started from this folder.
    fn processes(&self) -> Vec<u32> {
        let folder = self.0.to_string_lossy().into_owned();
        let ours = |pid: &u32| {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&command).contains(&folder)
        };
        let all = std::fs::read_dir("/proc").unwrap();
        all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).filter(ours).collect()
    }

    async fn empty(&self) {
        lab::until("every process to end", SOON, || async {
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
        drop(std::fs::remove_dir_all(&self.0));
    }
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
    assert!(Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
    state.empty().await;
    // A process that is being killed is still one for a moment after it has lost its command line.
    let status = lab::until("the lab to have ended", SOON, || async {
        let output = state.lab(&["status"]);
        if output.status.success() { Err(format!("{output:?}")) } else { Ok(output) }
    });
    assert!(String::from_utf8(status.await.unwrap().stderr).unwrap().contains("no lab is up"));
    state.ok(&["up", "--no-services", "--detach"]);
    state.ok(&["down"]);
    state.empty().await;
}

#[test]
fn a_kubeconfig_that_leads_nowhere_is_an_error() {
    let state = State::new("nowhere");
    let file = state.0.join("kubeconfig");
    std::fs::write(&file, "apiVersion: v1\nkind: Config\n").unwrap();
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
