//! What a cluster is to be configured as, from the command line to its agent and back.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::agents::{Link, cluster, dial, hear, next, say};
use crate::control_plane::{ControlPlane, ca, token};

/// Code, stdout and stderr of `control-plane config ...`.
async fn config(data: &Path, args: &[&str], input: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_control-plane"));
    command.arg("config").args(args).env_clear().env("PIPEOPS_DATA_DIR", data);
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It may end without reading.
    let _gone = process.stdin.take().unwrap().write_all(input.as_bytes()).await;
    let output = process.wait_with_output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

const WISH: &str = "heartbeat_interval_seconds: 5\nproxy: {read_only: true}\n";

#[tokio::test]
async fn a_configuration_reaches_the_agent_at_once_and_when_it_comes_back_and_its_answer_is_shown() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path();
    let server = ControlPlane::start(data, &[]).await;
    let ca = ca(data);
    let user = token(data, &["create", "--user", "ana"]).await;
    let secret = token(data, &["create", "--agent", "--cluster", "prod"]).await;
    let register = r#"{"agent_id": "a", "capabilities": ["streams/2", "config_push"]}"#;
    let mut link = dial(&server, &ca, &secret).await;
    say(&mut link, "register", serde_json::from_str(register).unwrap()).await;
    hear(&mut link, "register_success").await;
    assert_eq!(hear(&mut link, "config_push").await["revision"], 0, "nothing is set yet");
    let said = config(data, &["set", "--cluster", "prod", "-"], WISH).await;
    assert_eq!(said, (Some(0), "configuration 1 of cluster prod is set\n".to_owned(), String::new()));
    let pushed = hear(&mut link, "config_push").await;
    assert_eq!((&pushed["revision"], &pushed["heartbeat_interval_seconds"]), (&Value::from(1), &Value::from(5)));
    assert_eq!(pushed["proxy"]["read_only"], true);

    let ack = r#"{"revision": 1, "accepted": ["proxy"], "refused": [{"setting": "heartbeat_interval_seconds", "reason": "no"}]}"#;
    say(&mut link, "config_ack", serde_json::from_str(ack).unwrap()).await;
    let shown = cluster(&server, &ca, &user, |cluster| cluster["config"]["revision"] == 1).await;
    assert_eq!(shown["config"]["refused"][0]["reason"], "no", "{shown}");
    drop(link);

    config(data, &["set", "--cluster", "prod", "-"], "{}").await;
    let mut link = dial(&server, &ca, &secret).await;
    say(&mut link, "register", serde_json::from_str(register).unwrap()).await;
    // It may be that the control plane has not looked since.
    let mut pushed = hear(&mut link, "config_push").await;
    if pushed["revision"] == 1 {
        pushed = hear(&mut link, "config_push").await;
    }
    assert_eq!(pushed, serde_json::from_str::<Value>(r#"{"revision": 2}"#).unwrap());
    let (_, shown, _) = config(data, &["show", "--cluster", "prod"], "").await;
    assert_eq!(shown.trim(), "revision: 2");
}

/// Whether the agent is told anything of a configuration when it registers.
async fn registers(server: &ControlPlane, ca: &str, secret: &str) -> (Link, Option<Value>) {
    let mut link = dial(server, ca, secret).await;
    let register = r#"{"agent_id": "a", "capabilities": ["streams/2", "config_push"]}"#;
    say(&mut link, "register", serde_json::from_str(register).unwrap()).await;
    say(&mut link, "heartbeat", serde_json::from_str(r#"{"cluster_id": "c", "agent_id": "a"}"#).unwrap()).await;
    let mut told = None;
    loop {
        let mut message = next(&mut link).await;
        match message["type"].as_str().unwrap() {
            "config_push" => told = Some(message["payload"].take()),
            "heartbeat_ack" => return (link, told),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_record_that_is_gone_is_an_empty_one_and_one_that_cannot_be_read_changes_nothing() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path();
    config(data, &["set", "--cluster", "prod", "-"], WISH).await;
    let record = data.join("configs/prod.json");
    let good = std::fs::read(&record).unwrap();
    std::fs::write(&record, "{").unwrap();
    let server = ControlPlane::start(data, &[]).await;
    let ca = ca(data);
    let secret = token(data, &["create", "--agent", "--cluster", "prod"]).await;
    let (mut link, told) = registers(&server, &ca, &secret).await;
    assert_eq!(told, None);
    std::fs::write(&record, &good).unwrap();
    assert_eq!(hear(&mut link, "config_push").await["revision"], 1);
    std::fs::write(&record, "{").unwrap();
    let (mut second, told) = registers(&server, &ca, &secret).await;
    assert_eq!(told.unwrap()["revision"], 1, "what was known before counts");

    std::fs::remove_file(&record).unwrap();
    let nothing: Value = serde_json::from_str(r#"{"revision": 0}"#).unwrap();
    for link in [&mut link, &mut second] {
        assert_eq!(hear(link, "config_push").await, nothing);
    }
    let (mut third, told) = registers(&server, &ca, &secret).await;
    assert_eq!(told, Some(nothing));
    // Also when it counts anew.
    config(data, &["set", "--cluster", "prod", "-"], "heartbeat_interval_seconds: 9").await;
    assert_eq!(hear(&mut third, "config_push").await["heartbeat_interval_seconds"], 9);
}

#[tokio::test]
async fn a_configuration_that_cannot_be_meant_is_refused_with_the_reason() {
    let place = tempfile::tempdir().unwrap();
    let cases = [
        ("heartbeat_interval_seconds: 0", "from 1 to 3600"),
        ("proxy: {readonly: true}", "it says proxy.readonly, which means nothing"),
        ("tunnels: [{name: a, protocol: tcp, target: web}]", "namespace/service:port"),
        ("proxy: [", "is no configuration of a cluster"),
    ];
    for (text, wanted) in cases {
        let (code, _, said) = config(place.path(), &["set", "--cluster", "prod", "-"], text).await;
        assert!(code == Some(1) && said.contains(wanted) && said.contains("config set --help"), "{text}: {said}");
    }
    let (code, _, said) = config(place.path(), &["set", "--cluster", "a/b", "-"], "").await;
    assert!(code == Some(1) && said.contains("cannot be the name of a cluster"), "{said}");
    let (code, _, said) = config(place.path(), &["show", "--cluster", "prod"], "").await;
    assert!(code == Some(1) && said.contains("nothing is set for cluster"), "{said}");
}
