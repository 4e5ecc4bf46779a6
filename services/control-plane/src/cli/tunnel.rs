use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{ArgGroup, Args, Subcommand};
use protocol::config::Transport;
use protocol::{ClusterId, Target, Tunnel, TunnelId};
use runtime::error_text;

use super::settings::{Settings, check_cluster};
use super::{NAME, print};
use crate::clusters::{Cluster, Clusters};
use crate::gateway::{Owner, Registry, TunnelRecord};
use crate::options::Options;
use crate::service;
use crate::store::Contents;

/// How long `create` waits for a control plane to give the tunnel its port, and how often it looks.
const GIVEN: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a tunnel: a port of this control plane that leads to a port of a Service.
    ///
    /// Whoever reaches the port reaches the Service: a tunnel asks for no token. The cluster's owner decides which Services
    /// may be reached (agent.services of the agent's settings). The port stays the same for as long as the tunnel exists.
    Create(Create),
    /// List the tunnels: those made here, and those that agents ask for.
    List {
        #[command(flatten)]
        settings: Settings,
    },
    /// Delete a tunnel. Its port is closed within two seconds, and its connections are reset.
    Delete {
        /// The id that `tunnel list` shows.
        id: String,
        /// The tunnel's cluster.
        #[arg(long, value_name = "NAME")]
        cluster: String,
        #[command(flatten)]
        settings: Settings,
    },
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("target").required(true).args(["tcp", "udp"]))]
pub struct Create {
    /// The cluster; its agent has registered before.
    #[arg(long, value_name = "NAME")]
    cluster: String,
    /// The port of a Service that speaks TCP.
    #[arg(long, value_name = "NAMESPACE/SERVICE:PORT")]
    tcp: Option<String>,
    /// The port of a Service that speaks UDP.
    #[arg(long, value_name = "NAMESPACE/SERVICE:PORT")]
    udp: Option<String>,
    /// Port of the control plane, among those of gateway.ports; one that is free if left out.
    #[arg(long)]
    port: Option<u16>,
    /// Name each client to the Service: its connection begins with a header of the PROXY protocol, version 2. TCP only.
    #[arg(long)]
    proxy_protocol: bool,
    /// The tunnel's id, unique in its cluster; made of protocol, namespace, Service and port if left out.
    #[arg(long, value_name = "ID")]
    name: Option<String>,
    #[command(flatten)]
    settings: Settings,
}

pub fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Create(create) => create.run(),
        Command::List { settings } => {
            let options = settings.load()?;
            let Contents { mut records, broken } = existing(&options)?.stored()?;
            for error in broken.values() {
                eprintln!("{NAME}: warning: {}", error_text(error));
            }
            if records.is_empty() {
                eprintln!("{NAME}: there are no tunnels in {:?}", options.data_dir);
                return Ok(());
            }
            records.sort_by(|one, other| one.name.cmp(&other.name));
            print(&table(&records, &service::open_clusters(&options)?))
        }
        Command::Delete { id, cluster, settings } => {
            let options = settings.load()?;
            let registry = existing(&options)?;
            let unknown =
                || format!("cluster {cluster:?} has no tunnel {id:?}; `{NAME} tunnel list` shows those there are");
            let of = cluster_id(&service::open_clusters(&options)?, &cluster)?;
            let tunnel = TunnelId::new(id.as_str()).with_context(unknown)?;
            anyhow::ensure!(registry.remove(&TunnelRecord::name_of(&of, &tunnel))?, "{}", unknown());
            print(&format!("tunnel {id} of cluster {cluster} is deleted\n"))
        }
    }
}

/// Of a data folder that is there already: an empty list of a folder that is not would mislead.
fn existing(options: &Options) -> anyhow::Result<Registry> {
    anyhow::ensure!(
        options.data_dir.join("clusters").exists(),
        "no control plane has used {:?}: run this where the control plane's data is, with its settings (PIPEOPS_DATA_DIR, or --set data_dir=DIR)",
        options.data_dir
    );
    service::open_registry(options)
}

fn cluster_id(clusters: &Clusters, name: &str) -> anyhow::Result<ClusterId> {
    let cluster: Arc<Cluster> = clusters.find(name).with_context(|| {
        format!("cluster {name:?} has not registered: connect its agent first (`{NAME} token create --agent`)")
    })?;
    let id = cluster.record().id.clone();
    Ok(id)
}

impl Create {
    fn run(self) -> anyhow::Result<()> {
        check_cluster(&self.cluster)?;
        let (protocol, target) = match (self.tcp, self.udp) {
            (Some(target), _) => (Transport::Tcp, target),
            (None, udp) => (Transport::Udp, udp.unwrap_or_default()),
        };
        let target: Target = target
            .parse()
            .with_context(|| format!("{target:?} is no port of a Service; use NAMESPACE/SERVICE:PORT"))?;
        let options = self.settings.load()?;
        let range = options.gateway.ports;
        if let Some(port) = self.port {
            anyhow::ensure!(range.holds(port), "port {port} is not among those for tunnels, {range} (gateway.ports)");
        }
        let registry = existing(&options)?;
        let cluster = cluster_id(&service::open_clusters(&options)?, &self.cluster)?;
        let name = self.name.unwrap_or_else(|| {
            format!("{}-{}-{}-{}", word(protocol), target.namespace(), target.service(), target.port())
        });
        let id =
            TunnelId::new(name.as_str()).with_context(|| format!("{name:?} cannot be the id of a tunnel (--name)"))?;
        let proxy_protocol = self.proxy_protocol;
        let tunnel = Tunnel { tunnel_port: self.port, proxy_protocol, ..Tunnel::new(id, protocol, &target) };
        tunnel.check()?;
        let record = TunnelRecord::new(cluster, Owner::Operator, tunnel);
        let Contents { records, .. } = registry.stored()?;
        anyhow::ensure!(
            !records.iter().any(|other| other.name == record.name),
            "cluster {:?} has a tunnel {name:?} already; delete it first, or give this one another --name",
            self.cluster
        );
        let owner = |port| {
            let has = |other: &&TunnelRecord| {
                other.tunnel.tunnel_port == Some(port) && other.tunnel.protocol == protocol && other.tunnel.has_port()
            };
            records.iter().find(has)
        };
        if let Some((port, other)) = self.port.and_then(|port| Some((port, owner(port)?))) {
            anyhow::bail!(
                "port {port} is that of the tunnel {}; `{NAME} tunnel list` shows it",
                other.tunnel.tunnel_id
            );
        }
        registry.put(&record)?;
        let Some(port) = given(&registry, &record)? else {
            eprintln!(
                "{NAME}: note: no control plane has given tunnel {name} a port so far: one that uses {:?} will, or says in its log why it cannot",
                options.data_dir
            );
            return Ok(());
        };
        print(&format!("tunnel {name} of cluster {}: {} port {port} leads to {target}\n", self.cluster, word(protocol)))
    }
}

/// The port, once a control plane has given it.
fn given(registry: &Registry, record: &TunnelRecord) -> anyhow::Result<Option<u16>> {
    let until = Instant::now() + GIVEN;
    loop {
        let stored = registry.get(&record.name)?.context("somebody has deleted the tunnel meanwhile")?;
        if stored.tunnel.tunnel_port.is_some() || Instant::now() > until {
            return Ok(stored.tunnel.tunnel_port);
        }
        std::thread::sleep(LOOK);
    }
}

fn table(records: &[TunnelRecord], clusters: &Clusters) -> String {
    let names = |record: &TunnelRecord| {
        clusters.find(record.cluster.as_str()).map_or_else(|| record.cluster.to_string(), |of| of.record().name.clone())
    };
    let rows: Vec<[String; 6]> =
        std::iter::once(["CLUSTER", "ID", "PROTOCOL", "PORT", "SERVICE", "BY"].map(String::from))
            .chain(records.iter().map(|record| {
                let tunnel = &record.tunnel;
                let port = if tunnel.has_port() {
                    tunnel.tunnel_port.map_or("?".into(), |port| port.to_string())
                } else {
                    "-".into()
                };
                let target = tunnel.target().map_or_else(|error| error_text(&error), |target| target.to_string());
                let by = match record.owner {
                    Owner::Agent => "agent",
                    Owner::Operator => "operator",
                };
                [names(record), tunnel.tunnel_id.to_string(), word(tunnel.protocol).into(), port, target, by.into()]
            }))
            .collect();
    let mut widths = [0; 6];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    rows.iter().fold(String::new(), |table, row| {
        let line =
            row.iter().zip(widths).fold(String::new(), |line, (cell, width)| line + &format!("{cell:<width$}  "));
        table + line.trim_end() + "\n"
    })
}

fn word(protocol: Transport) -> &'static str {
    match protocol {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    }
}
