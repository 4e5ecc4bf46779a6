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
    /// With the port that it has, once it has one.
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
        let tunnel = Tunnel { cluster_uuid: cluster.to_string(), tunnel_endpoint: None, error: None, ..tunnel };
        Self { name, cluster, owner, created: Timestamp::now(), tunnel }
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
