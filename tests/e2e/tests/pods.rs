//! Faults of an agent that is pods, while sessions run through it.

use anyhow::{Context, Result, bail, ensure};
use e2e::{
    Protocol, Turns, cases,
    client::Target,
    load::{Job, Load},
};
use futures::future::{join_all, try_join_all};
use lab::{Forward, Lab, Lines, Options, TOOLS_IMAGE, until};
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
/// What the machine may need on top, when it has much else to do: twenty kubectls end at once, for instance.
const SPARE: Duration = Duration::from_secs(3);
/// The kubelet looks for ended containers every second, and a probe finds the new one ready: 1 to 3 s on a machine that is not busy.
const BACK_WITHIN: Duration = Duration::from_secs(10);
/// The control plane's, and what of it sessions have to end by themselves.
const SHUTDOWN: Duration = Duration::from_secs(10);
const DRAIN: Duration = Duration::from_secs(5);
const NAMESPACE: &str = "pipeops-system";
const TICKS: [&str; 6] = ["exec", "box", "--", "sh", "-c", "while :; do echo tick; sleep 0.5; done"];
const SERVER: &str =
    "socat TCP-LISTEN:7000,fork,reuseaddr,backlog=64 EXEC:cat & while :; do echo tick; sleep 0.5; done";
/// Of each kind.
const SESSIONS: usize = 20;
/// Together they send 200 requests per second.
const WORKERS: usize = 10;
const EVERY: Duration = Duration::from_millis(50);

fn main() -> ExitCode {
    let cases = cases![
        sessions_through_what_is_killed_end_and_new_ones_work,
        sessions_read_that_the_control_plane_shuts_down,
        a_restarted_node_has_its_agent_again,
    ];
    let shutdown = ("PIPEOPS_SHUTDOWN_TIMEOUT".to_owned(), format!("{}s", SHUTDOWN.as_secs()));
    let options = Options { node: true, control_plane_env: [shutdown].into(), ..Options::default() };
    e2e::run(options, Turns::OneByOne, cases)
}

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
    /// They end. An exec that is told why says this.
    Ends(&'static str),
}

const VICTIMS: [(Victim, Loss); 6] = [
    (Victim::Pod("proxy-executor"), Loss::Ends("the cluster's side broke")),
    (Victim::Pod("gateway-link"), Loss::Ends("the cluster's side broke")),
    (Victim::Pod("nats"), Loss::Ends("the cluster's side broke")),
    (Victim::Pod("state-keeper"), Loss::Nothing),
    (Victim::Process("kube-apiserver"), Loss::Ends("the cluster's side")),
    // Nobody is there to say anything.
    (Victim::Process("control-plane"), Loss::Ends("close 1006")),
];

/// Twenty of each: commands, logs that are followed, and forwarded connections.
struct Sessions {
    execs: Vec<Lines>,
    logs: Vec<Lines>,
    forward: Forward,
    connections: Vec<TcpStream>,
}

impl Sessions {
    async fn begin(lab: &Lab) -> Result<Self> {
        let kubectl = lab.proxied()?;
        let all = |args: &[&str]| (0..SESSIONS).map(|_| Lines::of(kubectl, args)).collect::<Result<Vec<_>>>();
        let (execs, logs) = (all(&TICKS)?, all(&["logs", "-f", "--tail=1", "box"])?);
        let forward = Forward::to(kubectl, "default", "box", 7000).await?;
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
    async fn end(mut self, reason: &str) -> Result<()> {
        let deadline = tokio::time::Instant::now() + ENDS_WITHIN + SPARE;
        let (mut execs, mut logs) = (Vec::new(), Vec::new());
        for (ends, lines) in [(&mut execs, &mut self.execs), (&mut logs, &mut self.logs)] {
            *ends = join_all(lines.iter_mut().map(|lines| end(lines, deadline))).await;
        }
        for ended in execs.iter().chain(&logs) {
            ensure!(ended.starts_with("the command ended with exit status: 1: "), "{ended}");
        }
        for ended in &execs {
            ensure!(ended.contains(reason), "{ended}");
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
async fn requests(lab: &Lab) -> Result<Load> {
    let target = Target::new(lab, lab.cluster())?;
    lab.admin().stdout(&["create", "configmap", "asked-for", "--from-literal=key=value"]).await?;
    let path = "/api/v1/namespaces/default/configmaps/asked-for";
    let body = target.http(Protocol::Http1)?.get(target.url(path)).send().await?.error_for_status()?.bytes().await?;
    let job = Job::Get { path: path.to_owned(), body: body.to_vec() };
    let protocols = [Protocol::Http1, Protocol::Http2].into_iter().cycle();
    Load::start(protocols.take(WORKERS).map(|protocol| (target.clone(), protocol, job.clone())).collect(), EVERY)
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

async fn sessions_through_what_is_killed_end_and_new_ones_work(lab: Arc<Lab>) -> Result<()> {
    server(&lab).await?;
    let load = requests(&lab).await?;
    for (victim, loss) in VICTIMS {
        let (Victim::Pod(name) | Victim::Process(name)) = victim;
        let killing = async {
            let mut sessions = Sessions::begin(&lab).await.context("before")?;
            load.report().context("before")?;
            match victim {
                Victim::Pod(name) => {
                    lab.containers(NAMESPACE, &format!("app.kubernetes.io/name={name}")).await?.kill()?;
                }
                Victim::Process(name) => lab.process(name)?.kill().await?,
            }
            let killed = Instant::now();
            match loss {
                Loss::Nothing => sessions.go_on().await.context("it is not on the way")?,
                Loss::Ends(reason) => sessions.end(reason).await?,
            }
            let ended = killed.elapsed();
            let mut again = killed;
            if let Victim::Process(name) = victim {
                let process = lab.process(name)?;
                process.start().await?;
                process.wait_ready(SOON).await?;
                again = Instant::now();
            }
            until("a command", BACK_WITHIN, || works(&lab)).await?;
            load.good_since(again, BACK_WITHIN).await?;
            let works = again.elapsed();
            let (whole, failed) = load.report()?;
            println!(
                "{name}: sessions ended after {ended:?}, all works {works:?} after it was there; {whole} answers, failed {failed:?}"
            );
            if matches!(loss, Loss::Nothing) {
                ensure!(failed.is_empty(), "requests fail without it: {failed:?}");
            }
            let wait = ["wait", "--for=condition=Ready", "pods", "--all", "-n", NAMESPACE, "--timeout=60s"];
            lab.admin().stdout(&wait).await
        };
        killing.await.with_context(|| format!("{name} is killed"))?;
    }
    lab.admin().stdout(&["delete", "pod", "box", "--now"]).await?;
    Ok(())
}

async fn sessions_read_that_the_control_plane_shuts_down(lab: Arc<Lab>) -> Result<()> {
    server(&lab).await?;
    let mut session = Lines::of(lab.proxied()?, &TICKS)?;
    ensure!(session.next(SOON).await? == "tick");
    let control_plane = lab.process("control-plane")?;
    let told = Instant::now();
    let (stopped, (ended, after)) = tokio::join!(control_plane.stop(), async {
        (end(&mut session, tokio::time::Instant::now() + DRAIN + ENDS_WITHIN + SPARE).await, told.elapsed())
    });
    let stopped = stopped?.context("it did not run")?;
    println!("the session ends after {after:?}, the control plane after {:?}: {ended}", told.elapsed());
    ensure!(after >= DRAIN, "it has no time to end by itself: {after:?}, {ended}");
    ensure!(
        ended.contains("close 1001 (going away): the control plane is shutting down; begin the session again"),
        "{ended}"
    );
    ensure!(stopped.code() == Some(0) && told.elapsed() < SHUTDOWN, "{stopped} after {:?}", told.elapsed());
    control_plane.start().await?;
    control_plane.wait_ready(SOON).await?;
    until("a command", BACK_WITHIN, || works(&lab)).await?;
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
    lab.all_containers()?.kill()?;
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
