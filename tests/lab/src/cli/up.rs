//! `cargo lab up`.

use super::{Up, show};
use crate::{
    lab::{self, Lab, Options},
    progress::Progress,
    state::{Phase, State},
};
use anyhow::{Context, Result, bail};
use std::{
    fmt::Write as _,
    fs::File,
    io::{Read, Write},
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Notify,
};

const LOOK_EVERY: Duration = Duration::from_millis(100);
const SAME_SIGNAL: Duration = Duration::from_millis(500);
/// Long enough for a first run that builds every part.
const UP_WITHIN: Duration = Duration::from_secs(3600);

pub(super) async fn run(options: Up) -> Result<()> {
    if options.detach { detach(&options).await } else { stay(options).await }
}

async fn stay(options: Up) -> Result<()> {
    let stop = Notify::new();
    tokio::select! {
        result = until_stopped(options, &stop) => result,
        result = signals(&stop) => result,
    }
}

async fn until_stopped(options: Up, stop: &Notify) -> Result<()> {
    let started = Instant::now();
    let start = Options {
        kubeconfig: options.kubeconfig.clone(),
        node: options.node,
        services: !options.no_services,
        current: true,
        progress: Progress::detect(),
        ..Options::default()
    };
    let lab = Lab::start_unless(start, stop.notified()).await?;
    let shown = tokio::select! {
        shown = show(&lab, &options, started) => shown,
        () = stop.notified() => Ok(()),
    };
    let stopped = lab.stop().await;
    shown.and(stopped)
}

/// Asks to stop at the first Ctrl-C or SIGTERM. A second Ctrl-C does not wait: what still runs ends with this process.
async fn signals(stop: &Notify) -> Result<()> {
    let mut interrupted = signal(SignalKind::interrupt()).context("cannot wait for Ctrl-C")?;
    let mut terminated = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    tokio::select! {
        _ = interrupted.recv() => {}
        _ = terminated.recv() => {}
    }
    eprintln!("stopping");
    stop.notify_one();
    // Wrappers that pass signals on make two of one.
    tokio::time::sleep(SAME_SIGNAL).await;
    signal(SignalKind::interrupt()).context("cannot wait for Ctrl-C")?.recv().await;
    bail!("stopped at once; `cargo lab down` ends what is left")
}

/// Shows that it is up, and how its processes are, again and again.
async fn show(lab: &Lab, options: &Up, started: Instant) -> Result<()> {
    let summary = summary(lab, options, started)
        .await
        .with_context(|| format!("the lab does not answer; its logs are in {}", lab::logs(lab.folder()).display()))?;
    lab.finish_start(&summary)?;
    if options.background {
        println!("up");
        return std::future::pending().await;
    }
    println!("{summary}");
    show::live(lab).await;
    Ok(())
}

/// The proxied request, its answer, and what to try next.
async fn summary(lab: &Lab, options: &Up, started: Instant) -> Result<String> {
    let args = ["get", "namespaces"];
    let (through, answer) = match lab.proxied() {
        Ok(kubectl) => ("through the agent", kubectl.stdout(&args).await?),
        Err(_) => ("straight to the API server", lab.direct().stdout(&args).await?),
    };
    let took = started.elapsed().as_secs_f32();
    let file = lab.kubeconfig().unwrap_or(lab.kubeconfig_direct());
    // Any kubectl does for a try; who has none uses the lab's.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let theirs = std::env::split_paths(&path).any(|folder| folder.join("kubectl").is_file());
    let kubectl = if theirs { "kubectl".to_owned() } else { lab.parts().path("kubectl")?.display().to_string() };
    let mut summary = format!(
        "\n$ kubectl {} ({through})\n{answer}\nUp in {took:.1} s. Try next:\n  export KUBECONFIG={}\n  {kubectl} get pods --all-namespaces\n",
        args.join(" "),
        file.display(),
    );
    // What the user puts into a cluster of theirs, the lab does not take out.
    if options.kubeconfig.is_none() {
        let image = if options.node { crate::TOOLS_IMAGE } else { "hello" };
        writeln!(summary, "  {kubectl} create deployment hello --image={image} --replicas=2")?;
    }
    Ok(summary)
}

/// Starts this program once more in the background, and shows what it says until it is up.
async fn detach(options: &Up) -> Result<()> {
    let folder = lab::current()?;
    if let Some(owner) = State::read(&folder)?.as_ref().and_then(State::owner) {
        bail!("a lab is up already (process {}). `cargo lab status` shows it, `cargo lab down` stops it.", owner.pid);
    }
    // Beside the run folder: that is emptied at the start.
    let log_path = folder.with_extension("log");
    let log = File::create(&log_path).with_context(|| format!("cannot write {}", log_path.display()))?;
    let mut reader = File::open(&log_path).with_context(|| format!("cannot read {}", log_path.display()))?;
    let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
    command.args(["up", "--background"]);
    if let Some(kubeconfig) = &options.kubeconfig {
        command.arg("--kubeconfig").arg(kubeconfig);
    }
    if options.node {
        command.arg("--node");
    }
    if options.no_services {
        command.arg("--no-services");
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("cannot share the log file")?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .context("cannot start the background process")?;

    let started = Instant::now();
    loop {
        let ended = child.try_wait().context("cannot watch the background process")?;
        let mut said = String::new();
        reader.read_to_string(&mut said).context("cannot read the background process's log")?;
        eprint!("{said}");
        std::io::stderr().flush()?;
        if let Some(status) = ended {
            bail!("the lab did not come up ({status}); see {}", log_path.display());
        }
        if let Some(state) = State::read(&folder)?.filter(|state| state.owner().is_some_and(|o| o.pid == child.id()))
            && state.phase == Phase::Up
        {
            println!("{}\n`cargo lab status` shows it, `cargo lab down` stops it.", state.summary);
            return Ok(());
        }
        if started.elapsed() > UP_WITHIN {
            bail!("the lab is not up after {UP_WITHIN:?}; `cargo lab down` stops it; see {}", log_path.display());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
