//! `control-plane serve`, and the commands that work on its data.

mod config;
mod settings;
mod token;
mod tunnel;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::options::Options;
use crate::service;

const NAME: &str = env!("CARGO_PKG_NAME");
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Reaches private Kubernetes clusters through the agents that run in them.
#[derive(Debug, Parser)]
#[command(name = NAME, version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve users and agents.
    #[command(after_long_help = runtime::settings_help::<Options>())]
    Serve(runtime::Args),
    /// Make, list and revoke the tokens of agents and users.
    ///
    /// These commands work on the data folder, whether or not a control plane is serving from it: run them where it is,
    /// such as in the control plane's pod, with the same settings (PIPEOPS_DATA_DIR, or --set data_dir=DIR).
    Token {
        #[command(subcommand)]
        command: token::Command,
    },
    /// Set and show what clusters are to be configured as.
    ///
    /// These commands work on the data folder, as those of `token` do.
    Config {
        #[command(subcommand)]
        command: config::Command,
    },
    /// Make, list and delete tunnels: ports of this control plane that lead to Services.
    ///
    /// These commands work on the data folder, as those of `token` do.
    Tunnel {
        #[command(subcommand)]
        command: tunnel::Command,
    },
}

pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(args) => runtime::run_with(NAME, VERSION, &args, service::run),
        Command::Token { command } => said(token::run(command)),
        Command::Config { command } => said(config::run(command)),
        Command::Tunnel { command } => said(tunnel::run(command)),
    }
}

/// A reader that has gone, such as `head`, is an error and no panic.
fn print(text: &str) -> anyhow::Result<()> {
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

fn said(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{NAME}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
