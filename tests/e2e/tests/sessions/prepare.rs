//! Pods for the tests.

use anyhow::{Context, Result, ensure};
use lab::{Lab, Tool};
use std::{process::Stdio, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

pub const SOON: Duration = Duration::from_secs(60);

/// The pod `echo`, which gives back what comes to its port 7000, once it listens there. A probe that comes late on a busy machine
/// takes it out of no Service.
pub async fn echo(lab: &Lab, namespace: &str) -> Result<()> {
    let echo = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"echo","labels":{"app":"echo"}},"spec":{"containers":[{"name":"echo",
        "image":"lab.local/tools:1","args":["socat","-t30","TCP-LISTEN:7000,fork,reuseaddr,backlog=256","EXEC:cat"],
        "readinessProbe":{"tcpSocket":{"port":7000},"periodSeconds":1,"failureThreshold":60}}]}}"#;
    create(lab, namespace, "pod/echo", echo).await
}

/// The pod that answers each line of its stdin.
pub const TALKER: &str = "talker";

/// Starts it.
pub async fn talker(lab: &Lab, namespace: &str) -> Result<()> {
    let talker = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"talker"},"spec":{"containers":[{"name":"talker",
        "image":"lab.local/tools:1","stdin":true,"args":["sh","-c","while read line; do echo got $line; done"]}]}}"#;
    create(lab, namespace, "pod/talker", talker).await
}

/// A pod, once it is ready.
pub async fn create(lab: &Lab, namespace: &str, pod: &str, manifest: &str) -> Result<()> {
    lab.admin().stdout_with_input(&["create", "-n", namespace, "-f", "-"], manifest).await?;
    let wait = ["wait", "--for=condition=Ready", pod, "-n", namespace, "--timeout=60s"];
    lab.admin().stdout(&wait).await.with_context(|| format!("{pod} does not start"))?;
    Ok(())
}

/// A line to it by `kubectl attach`, and its answer.
pub async fn attach(tool: &Tool, namespace: &str) -> Result<()> {
    let mut attach = tool.command(&["attach", "-i", TALKER, "-n", namespace, "--quiet"]);
    let mut attach = attach.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let (stdin, stdout) = (attach.stdin.as_mut(), attach.stdout.as_mut());
    let (stdin, stdout) = (stdin.context("no stdin")?, stdout.context("no stdout")?);
    stdin.write_all(b"x\n").await?;
    let mut said = [0; 6];
    timeout(SOON, stdout.read_exact(&mut said)).await.context("the pod does not answer")??;
    ensure!(&said == b"got x\n", "{said:?}");
    Ok(())
}

/// Makes sure that kubectl, told to say much, asked for one session, by that method, and got it.
pub fn switched_once(said: &str, subresource: &str, method: &str) -> Result<()> {
    let asked: Vec<_> = said.lines().filter(|line| line.contains(&format!("/{subresource}"))).collect();
    let [line] = asked.as_slice() else { anyhow::bail!("not one request for {subresource}: {said}") };
    ensure!(line.contains(&format!("verb=\"{method}\"")) && line.contains("status=\"101 "), "{line}");
    Ok(())
}
