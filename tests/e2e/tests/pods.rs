//! Faults of an agent that is pods, while sessions run through it.

use anyhow::{Context, Result, bail, ensure};
use e2e::{Forward, Lines, Turns, cases};
use lab::{Lab, Options, TOOLS_IMAGE, until};
use std::{
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const SOON: Duration = Duration::from_secs(60);
/// A session whose way is broken says so within this.
const ENDS_WITHIN: Duration = Duration::from_secs(2);
/// What the machine may need on top, when it has much else to do.
const SPARE: Duration = Duration::from_secs(3);
/// The kubelet looks for ended containers every second, and a probe finds the new one ready: 1 to 3 s on a machine that is not busy.
const BACK_WITHIN: Duration = Duration::from_secs(10);
const NAMESPACE: &str = "pipeops-system";
const SERVER: &str = "socat TCP-LISTEN:7000,fork,reuseaddr EXEC:cat & while :; do echo tick; sleep 0.2; done";

fn main() -> ExitCode {
    let cases = cases![sessions_through_a_killed_pod_end_and_new_ones_work, a_restarted_node_has_its_agent_again,];
    e2e::run(Options { node: true, ..Options::default() }, Turns::OneByOne, cases)
}

/// An exec, a log that is followed, and a forwarded connection.
struct Sessions {
    commands: [Lines; 2],
    forward: Forward,
    connection: TcpStream,
}

impl Sessions {
    async fn begin(lab: &Lab) -> Result<Self> {
        let kubectl = lab.proxied()?;
        let exec = ["exec", "box", "--", "sh", "-c", "while :; do echo tick; sleep 0.2; done"];
        let forward = Forward::to(kubectl, "default", "box", 7000).await?;
        let connection = forward.connect().await?;
        let commands = [Lines::of(kubectl, &exec)?, Lines::of(kubectl, &["logs", "-f", "--tail=1", "box"])?];
        let mut sessions = Self { commands, forward, connection };
        sessions.go_on().await?;
        Ok(sessions)
    }

    async fn go_on(&mut self) -> Result<()> {
        for lines in &mut self.commands {
            for _ in 0..3 {
                ensure!(lines.next(SOON).await? == "tick");
            }
        }
        self.connection.write_all(b"ping").await?;
        let mut answer = [0; 4];
        tokio::time::timeout(SOON, self.connection.read_exact(&mut answer)).await.context("no echo")??;
        ensure!(&answer == b"ping", "{answer:?}");
        Ok(())
    }

    /// Makes sure that each ends, and not as if it were complete.
    async fn end(mut self) -> Result<()> {
        let deadline = tokio::time::Instant::now() + ENDS_WITHIN + SPARE;
        for lines in &mut self.commands {
            let ended = loop {
                match lines.next(deadline - tokio::time::Instant::now()).await {
                    Ok(line) => ensure!(line == "tick", "{line:?}"),
                    Err(error) => break format!("{error:#}"),
                }
            };
            ensure!(ended.starts_with("the command ended with exit status: 1: "), "{ended}");
        }
        let mut rest = Vec::new();
        match tokio::time::timeout_at(deadline, self.connection.read_to_end(&mut rest)).await {
            Err(_) => bail!("a forwarded connection stays open"),
            Ok(_) => ensure!(rest.is_empty(), "{rest:?}"),
        }
        drop(self.forward);
        Ok(())
    }
}

async fn server(lab: &Lab) -> Result<()> {
    until("the namespace's ServiceAccount", SOON, || async {
        lab.admin().stdout(&["get", "serviceaccount", "default"]).await
    })
    .await?;
    let image = format!("--image={TOOLS_IMAGE}");
    lab.admin().stdout(&["run", "box", &image, "--restart=Always", "--", "sh", "-c", SERVER]).await?;
    lab.admin().stdout(&["wait", "--for=condition=Ready", "pod/box", "--timeout=60s"]).await?;
    Ok(())
}

async fn works(lab: &Lab) -> Result<()> {
    let exec = lab.proxied()?.run(&["exec", "box", "--request-timeout=5s", "--", "echo", "back"]).await?;
    ensure!(exec.success() && exec.stdout == "back\n", "{exec:?}");
    Ok(())
}

async fn sessions_through_a_killed_pod_end_and_new_ones_work(lab: Arc<Lab>) -> Result<()> {
    server(&lab).await?;
    for service in ["proxy-executor", "gateway-link", "nats", "state-keeper"] {
        let mut sessions = Sessions::begin(&lab).await.with_context(|| format!("before {service} is killed"))?;
        let selector = format!("app.kubernetes.io/name={service}");
        lab.kill_pods(NAMESPACE, &selector).await?;
        let killed = Instant::now();
        if service == "state-keeper" {
            sessions.go_on().await.context("state-keeper is not on the way")?;
        } else {
            sessions.end().await.with_context(|| format!("{service} was killed {:?} ago", killed.elapsed()))?;
        }
        let ended = killed.elapsed();
        until(&format!("a command after {service} was killed"), BACK_WITHIN, || works(&lab)).await?;
        println!("{service} killed: sessions ended after {ended:?}, new ones work after {:?}", killed.elapsed());
        let wait = ["wait", "--for=condition=Ready", "pods", "--all", "-n", NAMESPACE, "--timeout=60s"];
        lab.admin().stdout(&wait).await?;
    }
    lab.admin().stdout(&["delete", "pod", "box", "--now"]).await?;
    Ok(())
}

async fn a_restarted_node_has_its_agent_again(lab: Arc<Lab>) -> Result<()> {
    server(&lab).await?;
    works(&lab).await?;
    let programs = ["kubelet", "kube-proxy", "kube-router", "containerd"].map(|name| lab.process(name));
    let programs = programs.into_iter().collect::<Result<Vec<_>>>()?;
    for program in &programs {
        program.kill().await?;
    }
    lab.kill_every_pod()?;
    ensure!(works(&lab).await.is_err(), "it answers without a node");
    for program in programs.iter().rev() {
        program.start().await?;
    }
    let started = Instant::now();
    for program in &programs {
        program.wait_ready(SOON).await?;
    }
    // Pods that crash wait ten seconds before they are started again, and twenty after the next time.
    until("a command after the node's restart", Duration::from_secs(120), || works(&lab)).await?;
    println!("node restarted: a command works after {:?}", started.elapsed());
    Ok(())
}
