//! `control-plane serve` and `control-plane token ...`.

use std::process::ExitCode;

use clap::{ArgGroup, Args, Parser, Subcommand};
use protocol::User;

use crate::auth::Grant;
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
    Token {
        #[command(subcommand)]
        command: TokenCommand,
    },
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token and print it. It is shown this once; only its hash is kept.
    Create(Create),
    /// List the tokens: id, what for, when made.
    List {
        #[command(flatten)]
        settings: runtime::Args,
    },
    /// Revoke a token. An agent's link ends, and a user's new requests are refused, within two seconds.
    Revoke {
        /// The id that `token list` shows.
        id: String,
        #[command(flatten)]
        settings: runtime::Args,
    },
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("for").required(true).args(["agent", "user"]))]
struct Create {
    /// The token is for the agent of the cluster given by --cluster.
    #[arg(long, requires = "cluster")]
    agent: bool,
    /// The token is for this user; requests run under this name in the cluster.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// A group of the user; repeatable.
    #[arg(long = "group", value_name = "GROUP", requires = "user")]
    groups: Vec<String>,
    /// The agent's cluster, or a cluster that the user is limited to; for users repeatable.
    #[arg(long = "cluster", value_name = "NAME")]
    clusters: Vec<String>,
    #[command(flatten)]
    settings: runtime::Args,
}

pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(args) => runtime::run_with(NAME, VERSION, &args, service::run),
        Command::Token { command } => match token(command) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{NAME}: {error:#}");
                ExitCode::FAILURE
            }
        },
    }
}

fn token(command: TokenCommand) -> anyhow::Result<()> {
    match command {
        TokenCommand::Create(create) => {
            let tokens = service::open_tokens(&runtime::load::<Options>(&create.settings)?)?;
            let (_, secret) = tokens.create(grant(create)?)?;
            println!("{}", secret.expose());
        }
        TokenCommand::List { settings } => {
            let mut records = service::open_tokens(&runtime::load::<Options>(&settings)?)?.list()?;
            records.sort_by_key(|record| record.created);
            for record in records {
                println!("{}  {:.0}  {}", record.id, record.created, describe(&record.grant));
            }
        }
        TokenCommand::Revoke { id, settings } => {
            let tokens = service::open_tokens(&runtime::load::<Options>(&settings)?)?;
            anyhow::ensure!(tokens.revoke(&id)?, "there is no token {id:?}; `token list` shows those there are");
        }
    }
    Ok(())
}

fn grant(create: Create) -> anyhow::Result<Grant> {
    let Some(name) = create.user else {
        let [cluster] = <[String; 1]>::try_from(create.clusters)
            .map_err(|_| anyhow::anyhow!("an agent's token is for exactly one --cluster"))?;
        check_cluster(&cluster)?;
        return Ok(Grant::Agent { cluster });
    };
    for name in std::iter::once(&name).chain(&create.groups) {
        anyhow::ensure!(
            protocol::identity::is_acceptable(name),
            "{name:?} cannot be the name of a user or a group: it is empty, too long, or has white space at an end"
        );
    }
    let clusters = if create.clusters.is_empty() { None } else { Some(create.clusters) };
    Ok(Grant::User { user: User { name, groups: create.groups }, clusters })
}

/// The name is part of a URL and of a file name.
fn check_cluster(name: &str) -> anyhow::Result<()> {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.' || b == b'_');
    anyhow::ensure!(
        plain && !name.is_empty() && !name.starts_with('.') && name.len() <= 63 && name != "ws",
        "{name:?} cannot be a cluster's name: use up to 63 letters, digits, '-', '_' and '.'"
    );
    Ok(())
}

fn describe(grant: &Grant) -> String {
    match grant {
        Grant::Agent { cluster } => format!("agent of cluster {cluster}"),
        Grant::User { user, clusters } => {
            let groups = if user.groups.is_empty() { String::new() } else { format!(" in {}", user.groups.join(", ")) };
            let scope = clusters.as_ref().map(|c| format!(", only cluster {}", c.join(", "))).unwrap_or_default();
            format!("user {}{groups}{scope}", user.name)
        }
    }
}
