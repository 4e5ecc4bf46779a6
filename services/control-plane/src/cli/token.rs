use clap::{ArgGroup, Args, Subcommand};
use protocol::User;
use protocol::identity::{MAX_GROUPS, MAX_NAME, is_acceptable};
use runtime::error_text;

use super::settings::{Settings, check_cluster};
use super::{NAME, print};
use crate::auth::{Grant, TokenRecord, Tokens, token_id};
use crate::options::Options;
use crate::service;
use crate::store::Contents;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a token and print it.
    ///
    /// It is shown this once; only its hash is kept. It works from its first request on, without a restart of the control
    /// plane. An agent's is good for one registration: from then on the agent has a token of its own, which is renewed
    /// over its link and ends with this one's revocation. Agents of other makes show the same one for ever.
    Create(Create),
    /// List the tokens: id, when made, what for.
    List {
        #[command(flatten)]
        settings: Settings,
    },
    /// Revoke a token.
    ///
    /// Within two seconds an agent's link ends, a user's new requests are refused, and watches and sessions that are under
    /// way are cut.
    Revoke {
        /// The id that `token list` shows, or the token itself.
        id: String,
        #[command(flatten)]
        settings: Settings,
    },
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("for").required(true).args(["agent", "user"]))]
pub struct Create {
    /// The token is for the agent of the cluster given by --cluster.
    #[arg(long, requires = "clusters")]
    agent: bool,
    /// The token is for this user; requests run under this name in the cluster.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// A group of the user; repeatable.
    #[arg(long = "group", value_name = "GROUP", conflicts_with = "agent")]
    groups: Vec<String>,
    /// The agent's cluster; or a cluster that the user is limited to, repeatable. A user without it reaches all.
    #[arg(long = "cluster", value_name = "NAME")]
    clusters: Vec<String>,
    #[command(flatten)]
    settings: Settings,
}

/// The tokens of a data folder that is there already: an empty list of a folder that is not would mislead.
fn existing(settings: Settings) -> anyhow::Result<(Tokens, Options)> {
    let options = settings.load()?;
    anyhow::ensure!(
        options.data_dir.join("tokens").exists(),
        "there are no tokens in {:?}, and no control plane has used it: run this where the control plane's data is, with its settings (PIPEOPS_DATA_DIR, or --set data_dir=DIR)",
        options.data_dir
    );
    Ok((service::open_tokens(&options)?, options))
}

pub fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Create(create) => {
            let (grant, settings) = create.grant()?;
            let options = settings.load()?;
            if !options.data_dir.join("tokens").exists() {
                eprintln!(
                    "{NAME}: note: no control plane has used {:?} so far; only one that does will know this token",
                    options.data_dir
                );
            }
            let (_, secret) = service::open_tokens(&options)?.create(grant)?;
            print(&format!("{}\n", secret.expose()))
        }
        Command::List { settings } => {
            let (tokens, options) = existing(settings)?;
            let Contents { mut records, broken } = tokens.list()?;
            for error in broken.values() {
                eprintln!("{NAME}: warning: {}", error_text(error));
            }
            if records.is_empty() {
                eprintln!("{NAME}: there are no tokens in {:?}", options.data_dir);
                return Ok(());
            }
            records.sort_by_key(|record| record.created);
            print(&table(&records))
        }
        Command::Revoke { id, settings } => {
            let (tokens, _) = existing(settings)?;
            let id = token_id(&id).unwrap_or(&id);
            // What is only damaged can be revoked too.
            let record = tokens.get(id).ok().flatten();
            anyhow::ensure!(
                tokens.revoke(id)?,
                "there is no token with the id {id:?}; `{NAME} token list` shows those there are"
            );
            let of = record.map(|record| format!(", {}", describe(&record.grant))).unwrap_or_default();
            print(&format!("revoked {id}{of}\n"))
        }
    }
}

fn table(records: &[TokenRecord]) -> String {
    let head = format!("{:<12}  {:<20}  FOR\n", "ID", "CREATED");
    records.iter().fold(head, |table, record| {
        let used = record.used.as_ref().map(|used| format!(", used at {:.0} by {}", used.at, used.agent));
        let what = describe(&record.grant) + &used.unwrap_or_default();
        table + &format!("{:<12}  {:.0}  {what}\n", record.id, record.created)
    })
}

impl Create {
    fn grant(self) -> anyhow::Result<(Grant, Settings)> {
        for cluster in &self.clusters {
            check_cluster(cluster)?;
        }
        let Some(name) = self.user else {
            let [cluster] = <[String; 1]>::try_from(self.clusters)
                .map_err(|_| anyhow::anyhow!("an agent serves one cluster: give --cluster once"))?;
            return Ok((Grant::Agent { cluster }, self.settings));
        };
        anyhow::ensure!(
            self.groups.len() <= MAX_GROUPS,
            "a user can be in at most {MAX_GROUPS} groups, and {} are given: a request could not carry them",
            self.groups.len()
        );
        for (what, name) in std::iter::once(("user", &name)).chain(self.groups.iter().map(|group| ("group", group))) {
            anyhow::ensure!(
                is_acceptable(name),
                "{name:?} cannot be the name of a {what}: it is empty, longer than {MAX_NAME} bytes, begins or ends with white space, or holds a control character"
            );
        }
        let clusters = if self.clusters.is_empty() { None } else { Some(self.clusters) };
        Ok((Grant::User { user: User { name, groups: self.groups }, clusters }, self.settings))
    }
}

fn describe(grant: &Grant) -> String {
    match grant {
        Grant::Agent { cluster } => format!("agent of cluster {cluster}"),
        Grant::User { user, clusters } => {
            let groups = if user.groups.is_empty() { String::new() } else { format!(" in {}", list(&user.groups)) };
            let scope = match clusters.as_deref() {
                None => String::new(),
                Some([]) => ", no cluster".to_owned(),
                Some([one]) => format!(", only cluster {one}"),
                Some(several) => format!(", only clusters {}", list(several)),
            };
            format!("user {}{groups}{scope}", plain(&user.name))
        }
    }
}

fn list(names: &[String]) -> String {
    names.iter().map(|name| plain(name)).collect::<Vec<_>>().join(", ")
}

/// Quoted where it could be taken for more than one name.
fn plain(name: &str) -> String {
    let odd = name.contains(|c: char| c.is_whitespace() || matches!(c, ',' | '"' | '\\'));
    if odd { format!("{name:?}") } else { name.to_owned() }
}
