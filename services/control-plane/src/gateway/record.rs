use jiff::Timestamp;
use protocol::{ClusterId, Tunnel, TunnelId};
use serde::{Deserialize, Serialize};

use crate::store::Record;

/// A tunnel as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelRecord {
    /// Of the cluster and of the tunnel in it; also the file's name.
    pub name: String,
    pub cluster: ClusterId,
    pub owner: Owner,
    pub created: Timestamp,
    /// The port that was asked for; any that is free if none was.
    #[serde(default)]
    pub asked_port: Option<u16>,
    /// With the port that it has, once that was opened: then it is no other tunnel's.
    pub tunnel: Tunnel,
}

/// Who made it, and may change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    /// The cluster's agent, whose set of tunnels is as it said last.
    Agent,
    /// Whoever runs the control plane.
    Operator,
}

impl TunnelRecord {
    pub fn new(cluster: ClusterId, owner: Owner, tunnel: Tunnel) -> Self {
        let name = Self::name_of(&cluster, &tunnel.tunnel_id);
        let asked_port = tunnel.tunnel_port;
        let cluster_uuid = cluster.to_string();
        let tunnel = Tunnel { cluster_uuid, tunnel_port: None, tunnel_endpoint: None, error: None, ..tunnel };
        Self { name, cluster, owner, created: Timestamp::now(), asked_port, tunnel }
    }

    /// In place of an earlier one of that name: its port goes on, unless something else is asked for.
    #[must_use]
    pub fn after(self, old: &Self) -> Self {
        let fits = self.tunnel.protocol == old.tunnel.protocol && self.tunnel.has_port();
        let had = old.tunnel.tunnel_port.filter(|port| fits && self.asked_port.is_none_or(|asked| asked == *port));
        Self { created: old.created, tunnel: Tunnel { tunnel_port: had, ..self.tunnel }, ..self }
    }

    /// Whether both ask for the same, whichever port they have.
    pub fn asks_the_same(&self, other: &Self) -> bool {
        let asked = |record: &Self| Tunnel { tunnel_port: None, ..record.tunnel.clone() };
        self.owner == other.owner && self.asked_port == other.asked_port && asked(self) == asked(other)
    }

    /// No two are alike: the ids that a control plane makes are of one length.
    pub fn name_of(cluster: &ClusterId, tunnel: &TunnelId) -> String {
        format!("{cluster}.{tunnel}")
    }
}

impl Record for TunnelRecord {
    fn name(&self) -> &str {
        &self.name
    }
}
