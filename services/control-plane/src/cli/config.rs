use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use protocol::ClusterConfig;

use super::settings::{Settings, check_cluster};
use super::{NAME, print};
use crate::service;

/// An example that says all there is.
const EXAMPLE: &str = "\
What a configuration may say, in YAML; an empty one ({}) withdraws all. What it does not say is left to the cluster's own settings, and what the
cluster's owner does not allow stays forbidden; `config show` gives the cluster's answer.

  heartbeat_interval_seconds: 30      # 1 to 3600, while the link is up
  proxy:                              # limits of proxied requests
    read_only: false                  # true: get, list and watch only
    verbs: [get, list, watch, create] # absent: all
    namespaces: [shop, blog]          # absent: all, and what is in none
    denied_subresources: [pods/exec]
  monitoring:
    enabled: true
    components: [prometheus, loki]    # absent: those of the agent's own settings
  tunnels:                            # how long tunnels to Services may stand idle; none needs an entry
    - name: orders-db
      protocol: tcp                   # or udp
      target: shop/postgres:5432      # namespace/service:port
      idle_timeout_seconds: 3600      # absent: the agent's own setting";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Set what a cluster is to be configured as.
    ///
    /// Its agent is told within two seconds, or when it connects next, and answers what of it is in force; again when that changes.
    #[command(after_long_help = EXAMPLE)]
    Set {
        /// File with the configuration (YAML); "-" reads it from stdin. It replaces the one before as a whole.
        file: PathBuf,
        #[command(flatten)]
        of: Of,
    },
    /// Show what a cluster is to be configured as.
    Show {
        #[command(flatten)]
        of: Of,
    },
}

#[derive(Debug, Args)]
pub struct Of {
    /// The cluster's name. It need not have registered yet.
    #[arg(long, value_name = "NAME")]
    cluster: String,
    #[command(flatten)]
    settings: Settings,
}

pub fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Set { file, of: Of { cluster, settings } } => {
            check_cluster(&cluster)?;
            let config = read(&file)?;
            let options = settings.load()?;
            let revision = service::open_configs(&options)?.set(&cluster, config)?;
            print(&format!("configuration {revision} of cluster {cluster} is set\n"))
        }
        Command::Show { of: Of { cluster, settings } } => {
            check_cluster(&cluster)?;
            let options = settings.load()?;
            let record = service::open_configs(&options)?.get(&cluster)?;
            let record = record.with_context(|| {
                format!("nothing is set for cluster {cluster:?} in {:?}; `{NAME} config set` does", options.data_dir)
            })?;
            print(&serde_saphyr::to_string(&record.config)?)
        }
    }
}

fn read(file: &Path) -> anyhow::Result<ClusterConfig> {
    let mut text = String::new();
    let place = if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).context("cannot read the configuration from stdin")?;
        "stdin".to_owned()
    } else {
        text = std::fs::read_to_string(file).with_context(|| format!("cannot read {file:?}"))?;
        format!("{file:?}")
    };
    let invalid = || format!("{place} is no configuration of a cluster; `{NAME} config set --help` shows one");
    let value: serde_json::Value = serde_saphyr::from_str(&text).with_context(invalid)?;
    let mut unknown = Vec::new();
    let config: ClusterConfig =
        serde_ignored::deserialize(value, |path| unknown.push(path.to_string().replace(".?", "")))
            .with_context(invalid)?;
    anyhow::ensure!(unknown.is_empty(), "{}: it says {}, which means nothing", invalid(), unknown.join(", "));
    config.check().with_context(invalid)?;
    Ok(config)
}
