//! Faults of an agent that is pods, while sessions run through it.

use anyhow::{Context, Result, bail, ensure};
use e2e::{
    Protocol,
    client::Target,
    load::{Job, Load},
};
use futures::future::{join_all, try_join_all};
use lab::{Forward, Lab, Lines, until};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// The control plane's, and what of it sessions have to end by themselves.
pub const SHUTDOWN: Duration = Duration::from_secs(10);
const DRAIN: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_secs(60);
/// A session whose way is broken says so within this.
const ENDS_WITHIN: Duration = Duration::from_secs(2);
/// What the machine may need on top, when it has much else to do: twenty kubectls end at once, for instance.
const SPARE: Duration = Duration::from_secs(3);
/// The kubelet looks for ended containers every second, and a probe finds the new one ready: 1 to 3 s on a machine that is not busy.
const BACK_WITHIN: Duration = Duration::from_secs(5);
const AGENT: &str = "pipeops-system";
const SERVER: &str =
    "socat TCP-LISTEN:7000,fork,reuseaddr,backlog=64 EXEC:cat & while :; do echo tick; sleep 0.5; done";
/// Of each kind.
const SESSIONS: usize = 20;
/// Together they send 200 requests per second.
const WORKERS: usize = 10;
const EVERY: Duration = Duration::from_millis(50);

/// What is killed.
#[derive(Clone, Copy)]
enum Victim {
    /// Of the agent.
    Pod(&'static str),
    Process(&'static str),
}

/// What happens to the sessions through it.
#[derive(Clone, Copy)]
enum Loss {
    /// It is not on their way.
    Nothing,
    /// They end, and an exec says one of these.
    Ends(&'static [&'static str]),
}

const BROKE: Loss =
    Loss::Ends(&["close 1011 (internal server error): the cluster's side broke; begin the session again"]);
/// The API server may come to close its connections in order.
const ENDED: Loss = Loss::Ends(&["close 1011 (internal server error): the cluster's side "]);
/// What goes itself cannot say why. The kernel cuts a connection on which something was still to be read.
const GONE: Loss = Loss::Ends(&["close 1006 (abnormal closure)", "connection reset by peer"]);

const VICTIMS: [(Victim, Loss); 6] = [
    (Victim::Pod("proxy-executor"), BROKE),
    (Victim::Pod("gateway-link"), BROKE),
    (Victim::Pod("nats"), BROKE),
    (Victim::Pod("state-keeper"), Loss::Nothing),
    (Victim::Process("kube-apiserver"), ENDED),
    (Victim::Process("control-plane"), GONE),
];

/// Twenty of each: commands, logs that are followed, and forwarded connections.
struct Sessions {
    execs: Vec<Lines>,
    logs: Vec<Lines>,
    forward: Forward,
    connections: Vec<TcpStream>,
}

impl Sessions {
    async fn begin(lab: &Lab, namespace: &str) -> Result<Self> {
        let kubectl = lab.proxied()?;
        let exec = ticks(namespace);
        let all = |args: &[&str]| (0..SESSIONS).map(|_| Lines::of(kubectl, args)).collect::<Result<Vec<_>>>();
        let (execs, logs) = (all(&exec)?, all(&["logs", "-f", "--tail=1", "box", "-n", namespace])?);
        let forward = Forward::to(kubectl, namespace, "box", 7000).await?;
        let connections = try_join_all((0..SESSIONS).map(|_| forward.connect())).await?;
        let mut sessions = Self { execs, logs, forward, connections };
        sessions.go_on().await?;
        Ok(sessions)
    }

    async fn go_on(&mut self) -> Result<()> {
        for lines in self.execs.iter_mut().chain(&mut self.logs) {
            for _ in 0..3 {
                ensure!(lines.next(SOON).await? == "tick");
            }
        }
        for connection in &mut self.connections {
            connection.write_all(b"ping").await?;
            let mut answer = [0; 4];
            tokio::time::timeout(SOON, connection.read_exact(&mut answer)).await.context("no echo")??;
            ensure!(&answer == b"ping", "{answer:?}");
        }
        Ok(())
    }

    /// Makes sure that each ends, and not as if it were complete.
    async fn end(mut self, reasons: &[&str]) -> Result<()> {
        let deadline = tokio::time::Instant::now() + ENDS_WITHIN + SPARE;
        let (mut execs, mut logs) = (Vec::new(), Vec::new());
        for (ends, lines) in [(&mut execs, &mut self.execs), (&mut logs, &mut self.logs)] {
            *ends = join_all(lines.iter_mut().map(|lines| end(lines, deadline))).await;
        }
        for ended in execs.iter().chain(&logs) {
            ensure!(ended.starts_with("the command ended with exit status: 1: "), "{ended}");
        }
        for ended in &execs {
            ensure!(reasons.iter().any(|reason| ended.contains(reason)), "{ended}");
        }
        for connection in &mut self.connections {
            let mut rest = Vec::new();
            match tokio::time::timeout_at(deadline, connection.read_to_end(&mut rest)).await {
                Err(_) => bail!("a forwarded connection stays open"),
                Ok(_) => ensure!(rest.is_empty(), "{rest:?}"),
            }
        }
        println!("an exec ends with {:?}, a log with {:?}", execs.first(), logs.first());
        drop(self.forward);
        Ok(())
    }
}

/// How a command ends that prints ticks.
/// A command that goes on for ever.
fn ticks(namespace: &str) -> [&str; 8] {
    ["exec", "box", "-n", namespace, "--", "sh", "-c", "while :; do echo tick; sleep 0.5; done"]
}

async fn end(lines: &mut Lines, deadline: tokio::time::Instant) -> String {
    loop {
        match lines.next(deadline - tokio::time::Instant::now()).await {
            Ok(line) if line == "tick" => {}
            Ok(line) => return format!("it printed {line:?}"),
            Err(error) => return format!("{error:#}"),
        }
    }
}

/// Requests that go on meanwhile.
async fn requests(lab: &Lab, namespace: &str) -> Result<Load> {
    let target = Target::new(lab, lab.cluster())?;
    lab.admin().stdout(&["create", "configmap", "asked-for", "-n", namespace, "--from-literal=key=value"]).await?;
    let path = format!("/api/v1/namespaces/{namespace}/configmaps/asked-for");
    let body = target.http(Protocol::Http1)?.get(target.url(&path)).send().await?.error_for_status()?.bytes().await?;
    let job = Job::Get { path, body: body.to_vec() };
    let protocols = [Protocol::Http1, Protocol::Http2].into_iter().cycle();
    Load::start(protocols.take(WORKERS).map(|protocol| (target.clone(), protocol, job.clone())).collect(), EVERY)
}

async fn server(lab: &Lab, namespace: &str) -> Result<()> {
    lab.create_namespace(namespace).await?;
    lab.run_pod(namespace, "box", SERVER).await
}

async fn works(lab: &Lab, namespace: &str) -> Result<()> {
    let exec = ["exec", "box", "-n", namespace, "--request-timeout=5s", "--", "echo", "back"];
    let exec = lab.proxied()?.run(&exec).await?;
    ensure!(exec.success() && exec.stdout == "back\n", "{exec:?}");
    Ok(())
}

pub async fn sessions_through_what_is_killed_end_and_new_ones_work(lab: Arc<Lab>) -> Result<()> {
    let namespace = "killed";
    server(&lab, namespace).await?;
    let load = requests(&lab, namespace).await?;
    for (victim, loss) in VICTIMS {
        let (Victim::Pod(name) | Victim::Process(name)) = victim;
        let killing = async {
            let mut sessions = Sessions::begin(&lab, namespace).await.context("before")?;
            load.report().context("before")?;
            match victim {
                Victim::Pod(name) => {
                    lab.containers(AGENT, &format!("app.kubernetes.io/name={name}")).await?.kill()?;
                }
                Victim::Process(name) => lab.process(name)?.kill().await?,
            }
            let killed = Instant::now();
            let lost = match loss {
                Loss::Nothing => sessions.go_on().await.context("it is not on the way"),
                Loss::Ends(reasons) => sessions.end(reasons).await,
            };
            let ended = killed.elapsed();
            let mut again = killed;
            // The next test needs it, whatever has come of the sessions.
            if let Victim::Process(name) = victim {
                let process = lab.process(name)?;
                process.start().await?;
                process.wait_ready(SOON).await?;
                again = Instant::now();
            }
            lost?;
            let left = BACK_WITHIN.saturating_sub(again.elapsed());
            tokio::try_join!(until("a command", left, || works(&lab, namespace)), load.good_since(again, left))?;
            let works = again.elapsed();
            let (whole, failed) = load.report()?;
            println!(
                "{name}: sessions ended after {ended:?}, all works {works:?} after it was there; {whole} answers, failed {failed:?}"
            );
            if matches!(loss, Loss::Nothing) {
                ensure!(failed.is_empty(), "requests fail without it: {failed:?}");
            }
            let wait = ["wait", "--for=condition=Ready", "pods", "--all", "-n", AGENT, "--timeout=60s"];
            lab.admin().stdout(&wait).await
        };
        killing.await.with_context(|| format!("{name} is killed"))?;
    }
    Ok(())
}

pub async fn sessions_read_that_the_control_plane_shuts_down(lab: Arc<Lab>) -> Result<()> {
    let namespace = "shut-down";
    server(&lab, namespace).await?;
    let mut session = Lines::of(lab.proxied()?, &ticks(namespace))?;
    ensure!(session.next(SOON).await? == "tick");
    let control_plane = lab.process("control-plane")?;
    let told = Instant::now();
    let (stopped, (ended, after)) = tokio::join!(control_plane.stop(), async {
        (end(&mut session, tokio::time::Instant::now() + DRAIN + ENDS_WITHIN + SPARE).await, told.elapsed())
    });
    let took = told.elapsed();
    control_plane.start().await?;
    control_plane.wait_ready(SOON).await?;
    let stopped = stopped?.context("it did not run")?;
    println!("the session ends after {after:?}, the control plane after {took:?}: {ended}");
    ensure!(after >= DRAIN, "it has no time to end by itself: {after:?}, {ended}");
    ensure!(
        ended.contains("close 1001 (going away): the control plane is shutting down; begin the session again"),
        "{ended}"
    );
    ensure!(stopped.code() == Some(0) && took < SHUTDOWN, "{stopped} after {took:?}");
    until("a command", BACK_WITHIN, || works(&lab, namespace)).await
}

pub async fn a_restarted_node_has_its_agent_again(lab: Arc<Lab>) -> Result<()> {
    let namespace = "restarted";
    server(&lab, namespace).await?;
    works(&lab, namespace).await?;
    let programs = ["kubelet", "kube-proxy", "kube-router", "containerd"].map(|name| lab.process(name));
    let programs = programs.into_iter().collect::<Result<Vec<_>>>()?;
    for program in &programs {
        program.kill().await?;
    }
    lab.all_containers()?.kill()?;
    let answer = works(&lab, namespace).await;
    for program in programs.iter().rev() {
        program.start().await?;
    }
    let started = Instant::now();
    for program in &programs {
        program.wait_ready(SOON).await?;
    }
    ensure!(answer.is_err(), "it answers without a node");
    // Pods that crash wait ten seconds before they are started again, and twenty after the next time.
    until("a command after the node's restart", Duration::from_secs(120), || works(&lab, namespace)).await?;
    println!("node restarted: a command works after {:?}", started.elapsed());
    Ok(())
}
