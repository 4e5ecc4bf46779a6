//! `cargo lab bench NAME`.

use crate::{kubectl, link, proxy, report::Report, tunnel};
use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use std::{path::PathBuf, process::ExitCode};
use tokio::signal::unix::{SignalKind, signal};

/// Figures, beside the direct path and other tunnels in the same run.
#[derive(Debug, Parser)]
#[command(name = "cargo lab bench", bin_name = "cargo lab bench", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Requests to the API server: direct, through the agent, through konnectivity and through chisel
    Proxy {
        /// Only this row; may be given several times
        #[arg(long, value_name = "ROW")]
        only: Vec<proxy::Row>,
        #[command(flatten)]
        common: Common,
    },
    /// Sessions with pods of a node (exec, port-forward, logs) and large lists: direct, and through the agent as pods. Needs root
    Kubectl {
        /// Only this row; may be given several times
        #[arg(long, value_name = "ROW")]
        only: Vec<kubectl::Row>,
        #[command(flatten)]
        common: Common,
    },
    /// One link, straight and over a way of 60 ms: bytes on 1 and 16 streams, small exchanges beside them. And 2,000 agents that
    /// come at once to one control plane: how soon they are there, also after it was killed, and what each costs
    Link {
        /// Only this row; may be given several times
        #[arg(long, value_name = "ROW")]
        only: Vec<link::Row>,
        #[command(flatten)]
        common: Common,
    },
    /// Bytes, small requests and datagrams from a port to a server beside the agent: direct, through a tunnel of the control plane,
    /// through chisel, frp and rathole, straight and over 60 ms of round trip
    Tunnel {
        /// Only this row; may be given several times
        #[arg(long, value_name = "ROW")]
        only: Vec<tunnel::Row>,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Args, Clone, Debug)]
struct Common {
    /// Fewer and shorter repeats
    #[arg(long)]
    quick: bool,
    /// Write every figure to this file, as a list of {bench, row, subject, metric, unit, value, spread}
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // One thread: what the client uses is taken from what it measures.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(cli)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<ExitCode> {
    let mut interrupted = signal(SignalKind::interrupt()).context("cannot wait for Ctrl-C")?;
    let mut terminated = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let progress = lab::Progress::detect();
    let (name, common) = match &cli.bench {
        Bench::Proxy { common, .. } => ("proxy", common.clone()),
        Bench::Kubectl { common, .. } => ("kubectl", common.clone()),
        Bench::Link { common, .. } => ("link", common.clone()),
        Bench::Tunnel { common, .. } => ("tunnel", common.clone()),
    };
    let mut report = Report::new(name);
    let bench = async {
        match cli.bench {
            Bench::Proxy { only, common } => {
                let scale = if common.quick { proxy::Scale::quick() } else { proxy::Scale::full() };
                proxy::run(proxy::Options { only, scale, progress }, &mut report).await
            }
            Bench::Kubectl { only, common } => {
                let scale = if common.quick { kubectl::Scale::quick() } else { kubectl::Scale::full() };
                kubectl::run(kubectl::Options { only, scale, progress }, &mut report).await
            }
            Bench::Link { only, common } => {
                let scale = if common.quick { link::Scale::quick() } else { link::Scale::full() };
                link::run(link::Options { only, scale, progress }, &mut report).await
            }
            Bench::Tunnel { only, common } => {
                let scale = if common.quick { tunnel::Scale::quick() } else { tunnel::Scale::full() };
                tunnel::run(tunnel::Options { only, scale, progress }, &mut report).await
            }
        }
    };
    // Dropped half-way, it ends everything it has started.
    let ended = tokio::select! {
        ended = bench => ended.map(|()| ExitCode::SUCCESS),
        _ = interrupted.recv() => Ok(stopped()),
        _ = terminated.recv() => Ok(stopped()),
    };
    finish(&report, &common, ended)
}

/// Keeps the figures there are, however the run has ended.
fn finish(report: &Report, common: &Common, ended: Result<ExitCode>) -> Result<ExitCode> {
    if let Some(file) = &common.json {
        report.write_json(file)?;
    }
    for failure in report.failures() {
        eprintln!("not measured: {failure}");
    }
    let code = ended?;
    Ok(if report.failures().is_empty() { code } else { ExitCode::FAILURE })
}

fn stopped() -> ExitCode {
    eprintln!("stopped; nothing that was started runs any more");
    ExitCode::from(130)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn a_run_that_ends_badly_leaves_its_figures() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("figures.json");
        let mut report = Report::new("proxy");
        report.add("get-1", "direct", "p50-ms", 2.5);
        let common = Common { quick: true, json: Some(file.clone()) };
        let error = finish(&report, &common, Err(anyhow!("cannot stop the lab"))).unwrap_err();
        assert_eq!(error.to_string(), "cannot stop the lab");
        let written: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        assert_eq!(written.pointer("/0/value"), Some(&2.5.into()));
    }
}
