//! A lab without services: what tests of faults rely on.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use lab::{Lab, Options, until};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

async fn kubernetes() -> Lab {
    Lab::start(Options { services: false, ..Options::default() }).await.unwrap()
}

#[tokio::test]
async fn a_killed_and_restarted_control_plane_keeps_its_address_and_its_data() {
    let lab = kubernetes().await;
    lab.direct().stdout(&["create", "configmap", "kept", "--from-literal=a=b"]).await.unwrap();
    for name in ["etcd", "kube-apiserver", "kube-controller-manager"] {
        let process = lab.process(name).unwrap();
        process.wait_ready(SOON).await.unwrap();
        let before = process.pid().unwrap();
        process.kill().await.unwrap();
        assert!(!process.is_running());
        assert!(process.ready().await.is_err());
        process.start().await.unwrap();
        process.wait_ready(SOON).await.unwrap();
        assert_ne!(process.pid().unwrap(), before);
    }
    lab.wait_ready(SOON).await.unwrap();
    let value = lab.direct().stdout(&["get", "configmap", "kept", "-o", "jsonpath={.data.a}"]).await.unwrap();
    assert_eq!(value, "b");
    lab.stop().await.unwrap();
}

#[tokio::test]
async fn a_part_of_kubernetes_that_ends_by_itself_is_started_again() {
    let lab = kubernetes().await;
    let manager = lab.process("kube-controller-manager").unwrap();
    let before = manager.pid().unwrap();
    let ended = std::process::Command::new("kill").args(["-KILL", &before.to_string()]).status().unwrap();
    assert!(ended.success());
    until("another kube-controller-manager", SOON, || async {
        let now = manager.pid().filter(|pid| *pid != before);
        now.ok_or("there is none")
    })
    .await
    .unwrap();
    manager.wait_ready(SOON).await.unwrap();
    // What the lab has killed stays so: a test of a fault decides for itself when it is over.
    manager.kill().await.unwrap();
    assert_eq!(
        manager.exit_status().and_then(|status| std::os::unix::process::ExitStatusExt::signal(&status)),
        Some(9)
    );
    lab.process("etcd").unwrap().restart().await.unwrap();
    lab.process("kube-apiserver").unwrap().restart().await.unwrap();
    lab.process("kube-apiserver").unwrap().wait_ready(SOON).await.unwrap();
    assert!(!manager.is_running());
    lab.stop().await.unwrap();
}

#[tokio::test]
async fn a_frozen_process_answers_nothing_until_it_is_resumed() {
    let lab = kubernetes().await;
    let apiserver = lab.process("kube-apiserver").unwrap();
    apiserver.freeze().unwrap();
    assert!(apiserver.is_running());
    let error = apiserver.ready().await.unwrap_err();
    assert!(format!("{error:#}").contains("kube-apiserver is not ready"), "{error:#}");
    apiserver.resume().unwrap();
    apiserver.wait_ready(SOON).await.unwrap();
    // Stopping wakes it first.
    apiserver.freeze().unwrap();
    assert!(apiserver.stop().await.unwrap().is_some());
    assert!(!apiserver.is_running());
    lab.stop().await.unwrap();
}

#[tokio::test]
async fn the_direct_user_is_an_admin_by_its_group() {
    let lab = kubernetes().await;
    let who = lab
        .direct()
        .stdout(&["auth", "whoami", "-o", "jsonpath={.status.userInfo.username} {.status.userInfo.groups}"])
        .await;
    assert_eq!(who.unwrap(), r#"lab ["lab:admins","system:authenticated"]"#);
    assert_eq!(lab.direct().stdout(&["auth", "can-i", "*", "*"]).await.unwrap().trim(), "yes");
    lab.stop().await.unwrap();
}

#[tokio::test]
async fn two_labs_run_side_by_side_and_end_with_their_handle() {
    let (one, two) = tokio::join!(kubernetes(), kubernetes());
    assert_ne!(one.api_url(), two.api_url());
    assert_ne!(one.folder(), two.folder());
    one.direct().stdout(&["create", "namespace", "only-in-one"]).await.unwrap();
    let absent = two.direct().run(&["get", "namespace", "only-in-one"]).await.unwrap();
    assert!(absent.stderr.contains("NotFound"), "{absent:?}");

    let pids: Vec<u32> = one.processes().iter().filter_map(|process| process.pid()).collect();
    assert_eq!(pids.len(), 3);
    drop(one);
    until("the first lab's processes to end", SOON, || async {
        match pids.iter().find(|pid| std::fs::exists(format!("/proc/{pid}")).unwrap_or(true)) {
            Some(pid) => Err(format!("process {pid} runs")),
            None => Ok(()),
        }
    })
    .await
    .unwrap();
    two.wait_ready(SOON).await.unwrap();
    two.stop().await.unwrap();
}

#[tokio::test]
async fn an_unknown_process_is_an_error_that_names_those_there_are() {
    let lab = kubernetes().await;
    let error = lab.process("kubelet").unwrap_err().to_string();
    assert!(error.contains("etcd") && error.contains("kube-apiserver"), "{error}");
    assert!(lab.user_token().is_err());
    lab.stop().await.unwrap();
}
