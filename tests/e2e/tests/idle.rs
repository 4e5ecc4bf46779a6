//! Sessions on which nothing happens, for several times as long as anything on the way waits that can be told how long. Other limits are
//! constants of our processes. Those of 60 s (a stream of the link, a connection to the API server) and 120 s (a user's connection) are
//! longer than this test; they are for what has no request under way, which a session is. Those of 2 s (the bus) and about 30 s (TCP)
//! want a sign of the other process or machine, not of the session.

use anyhow::{Context, Result, bail, ensure};
use e2e::{Turns, cases};
use futures::future::try_join_all;
use lab::{Forward, Lab, Options, Tool};
use std::{
    process::{ExitCode, Stdio},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    process::Child,
    time::timeout,
};

const SOON: Duration = Duration::from_secs(60);
const PING: &str = "1s";
/// The longest of the limits.
const DEAD: Duration = Duration::from_secs(3);
const IDLE: Duration = Duration::from_secs(4 * DEAD.as_secs());
const NAMESPACE: &str = "idle";

fn main() -> ExitCode {
    let dead = format!("{}s", DEAD.as_secs());
    let control_plane = [("PIPEOPS_LINKS_PING_INTERVAL", PING), ("PIPEOPS_LINKS_DEAD_AFTER", &dead)];
    let link = [
        ("PIPEOPS_PIPEOPS_PING_INTERVAL", PING),
        ("PIPEOPS_HEARTBEAT_INTERVAL_CONNECTED", PING),
        ("PIPEOPS_PIPEOPS_DEAD_AFTER", &dead),
    ];
    let values = link.iter().enumerate().flat_map(|(number, (name, value))| {
        let entry = format!("gateway-link.extraEnv[{number}]");
        [format!("{entry}.name={name}"), format!("{entry}.value={value}")]
    });
    let options = Options {
        node: true,
        control_plane_env: control_plane.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        values: values.collect(),
        ..Options::default()
    };
    e2e::run(options, Turns::Together, cases![sessions_that_are_idle_for_long_go_on])
}

/// `kubectl exec` of what gives back each line.
fn cat(tool: &Tool) -> Result<Child> {
    let mut exec = tool.command(&["exec", "-i", "box", "-n", NAMESPACE, "--", "cat"]);
    Ok(exec.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?)
}

async fn echoes(mut write: impl AsyncWrite + Unpin, mut read: impl AsyncRead + Unpin, line: &[u8]) -> Result<()> {
    write.write_all(line).await?;
    let mut answer = vec![0; line.len()];
    timeout(SOON, read.read_exact(&mut answer)).await.context("no answer")??;
    ensure!(answer == line, "{answer:?}");
    Ok(())
}

async fn sessions_that_are_idle_for_long_go_on(lab: Arc<Lab>) -> Result<()> {
    lab.create_namespace(NAMESPACE).await?;
    lab.run_pod(NAMESPACE, "box", "socat TCP-LISTEN:7000,fork,reuseaddr EXEC:cat").await?;
    let through = lab.proxied()?;
    let mut sessions = Vec::new();
    for websockets in ["true", "false"] {
        let names = ["KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "KUBECTL_PORT_FORWARD_WEBSOCKETS"];
        let tool = names.iter().fold(through.clone(), |tool, name| tool.with_env(name, websockets));
        let forward = Forward::to(&tool, NAMESPACE, "box", 7000).await?;
        let connection = forward.connect().await?;
        sessions.push((websockets, cat(&tool)?, forward, connection));
    }
    for line in ["before\n", "after\n"] {
        for (websockets, exec, _, connection) in &mut sessions {
            let (stdin, stdout) = (exec.stdin.as_mut(), exec.stdout.as_mut());
            let (stdin, stdout) = (stdin.context("no stdin")?, stdout.context("no stdout")?);
            let shell = echoes(stdin, stdout, line.as_bytes()).await;
            shell.with_context(|| format!("an exec {line:?}, WebSockets {websockets}"))?;
            let (read, write) = connection.split();
            let forwarded = echoes(write, read, line.as_bytes()).await;
            forwarded.with_context(|| format!("a forwarded port {line:?}, WebSockets {websockets}"))?;
        }
        if line == "before\n" {
            let idle = sessions.iter_mut().map(|(websockets, exec, _, connection)| async move {
                let (mut said, mut sent) = ([0], [0]);
                let stdout = exec.stdout.as_mut().context("no stdout")?;
                let ended = timeout(IDLE, async {
                    tokio::select! {
                        read = stdout.read(&mut said) => format!("an exec, WebSockets {websockets}: {read:?}"),
                        read = connection.read(&mut sent) => format!("a forwarded port, WebSockets {websockets}: {read:?}"),
                    }
                });
                ended.await.map_or(Ok(()), |ended| bail!(ended))
            });
            try_join_all(idle).await?;
        }
    }
    Ok(())
}
