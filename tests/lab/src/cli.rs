//! `cargo lab`.

mod bench;
mod checks;
mod fuzz;
mod generate;
mod logs;
mod show;
mod test;
mod up;

use crate::{
    lab,
    parts::{Parts, Use},
    process::send,
    progress::Progress,
    state::State,
};
use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use rustix::process::Signal;
use std::{
    path::PathBuf,
    process::{ExitCode, ExitStatus, Stdio},
};
use tokio::signal::unix::{SignalKind, signal};

/// Kubernetes, NATS, the control plane and the agent's services as processes of this machine.
#[derive(Debug, Parser)]
#[command(name = "cargo lab", bin_name = "cargo lab", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start everything, show a request through the agent, and stay until Ctrl-C
    Up(Up),
    /// Stop everything, also what a crash has left
    Down,
    /// Show the processes, and the pods of a node
    Status,
    /// Show what a process or a pod has logged, also when it runs no more
    Logs {
        /// A process or a pod as `status` shows it, or a container: all of that name
        service: String,
        /// Go on as more is logged
        #[arg(short, long)]
        follow: bool,
    },
    /// Print the path of the kubeconfig that leads through the agent
    Kubeconfig {
        /// Of the one that leads straight to the API server instead
        #[arg(long)]
        direct: bool,
    },
    /// Get every part and print what it is, which version, and from where
    Parts,
    /// Check formatting, lints, generated files and the chart, and run every test
    Test {
        /// Only the checks and tests whose name contains this
        filter: Option<String>,
    },
    /// Run a benchmark; what follows its name is for the benchmark
    #[command(disable_help_flag = true)]
    Bench {
        /// Its name and options
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Feed made-up bytes to what reads the bytes of peers; what follows is a target, `--minutes N` or `--help`
    #[command(disable_help_flag = true)]
    Fuzz {
        /// Target and options
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Write the files that are made from code
    Generate,
}

#[derive(Args, Clone, Debug, Default)]
struct Up {
    /// Return when it is up
    #[arg(long)]
    detach: bool,
    /// Use this cluster instead of starting one; `down` takes out of it again what was put in
    #[arg(long, value_name = "PATH")]
    kubeconfig: Option<PathBuf>,
    /// Add a node (containerd, kubelet and the rest, in namespaces of their own), and run the agent as pods on it; needs root
    #[arg(long, conflicts_with = "kubeconfig")]
    node: bool,
    /// Start Kubernetes alone: no control plane, no agent
    #[arg(long)]
    no_services: bool,
    /// The background half of --detach
    #[arg(long, hide = true)]
    background: bool,
}

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = match runtime.block_on(run(cli.command)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    };
    // A blocking read (of a lock somebody else holds) must not keep the program.
    runtime.shutdown_background();
    code
}

async fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Up(options) => up::run(options).await?,
        Command::Down => down().await?,
        Command::Status => show::status().await?,
        Command::Logs { service, follow } => logs::run(&service, follow).await?,
        Command::Kubeconfig { direct } => println!("{}", kubeconfig(direct)?.display()),
        Command::Parts => parts().await?,
        Command::Test { filter } => return test::run(filter).await,
        Command::Bench { args } => return bench::run(&args).await,
        Command::Fuzz { args } => return fuzz::run(&args).await,
        Command::Generate => generate::run().await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The state of the run that is on.
fn running() -> Result<State> {
    let state = State::read(&lab::current()?)?;
    state.filter(|state| state.owner().is_some()).context("no lab is up; `cargo lab up` starts one")
}

async fn down() -> Result<()> {
    match lab::clean_up(&lab::current()?).await? {
        0 => println!("nothing of the lab runs"),
        _ => println!("the lab is down"),
    }
    Ok(())
}

fn kubeconfig(direct: bool) -> Result<PathBuf> {
    let state = running()?;
    let path = if direct { state.direct.map(|kubectl| kubectl.kubeconfig().to_owned()) } else { state.kubeconfig };
    path.context("there is none: the lab is still starting, or has no services")
}

async fn parts() -> Result<()> {
    let progress = Progress::detect();
    let parts = Parts::of(&[Use::Lab, Use::Benches, Use::OneBench, Use::Tests], &progress).await?;
    let of_node = Parts::of(&[Use::Node], &progress).await;
    println!("{:<26} {:<10} {:<20} FILE", "PART", "VERSION", "FROM");
    for found in parts.iter().chain(of_node.iter().flat_map(Parts::iter)) {
        println!("{:<26} {:<10} {:<20} {}", found.binary, found.version, found.source, found.path.display());
    }
    of_node.map(drop).context("not every part of a node is at hand")
}

/// Runs a program in a group of its own, and passes on to all of it what asks this one to stop.
async fn run_group(mut command: tokio::process::Command) -> Result<ExitStatus> {
    let mut hung_up = signal(SignalKind::hangup()).context("cannot wait for SIGHUP")?;
    let mut interrupted = signal(SignalKind::interrupt()).context("cannot wait for Ctrl-C")?;
    let mut terminated = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let program = command.as_std().get_program().to_owned();
    let spawned = command.process_group(0).kill_on_drop(true).spawn();
    let mut child = spawned.with_context(|| format!("cannot run {}", program.display()))?;
    // It may hold the writing end of a pipe that is read to its end.
    drop(command);
    loop {
        let asked = tokio::select! {
            status = child.wait() => return status.with_context(|| format!("cannot wait for {}", program.display())),
            _ = hung_up.recv() => Signal::HUP,
            _ = interrupted.recv() => Signal::INT,
            _ = terminated.recv() => Signal::TERM,
        };
        if let Some(pid) = child.id() {
            send(pid, asked)?;
        }
    }
}

/// Runs a program that writes to this terminal, and gives its exit code.
async fn pass_through(program: &str, args: &[&str], parts: &Parts) -> Result<ExitCode> {
    let mut command = tokio::process::Command::new(program);
    command.args(args).env("PATH", parts.search_path()?).current_dir(crate::workspace()).stdin(Stdio::null());
    let status = run_group(command).await?;
    match status.code() {
        Some(code) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(1))),
        None => bail!("{program} ended with {status}"),
    }
}
