//! What each service says of itself and of what it sees, for heartbeats and diagnostics; and what it says to a wish of the
//! control plane.

use protocol::config::{Monitoring, ProxyPolicy, Refused};
use serde::{Deserialize, Serialize};

use crate::{Request, Service};

/// What a service says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    pub version: String,
    pub uptime_seconds: u64,
    /// Whether it can do its work.
    pub ready: bool,
    /// Why it cannot, by condition.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_ready: Vec<String>,
    /// The cluster, from whoever sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterFacts>,
}

/// The cluster as it was seen last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterFacts {
    /// Such as `v1.36.3`.
    pub k8s_version: String,
    /// None: this agent may not list them.
    pub nodes: Option<u64>,
    pub pods: Option<u64>,
    /// How long ago it was seen.
    pub age_seconds: u64,
}

/// Asks one proxy-executor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskProxyExecutor {}

/// Asks one state-keeper.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskStateKeeper {}

/// Asks a proxy-executor what the cluster's owner leaves of a policy that the control plane wishes for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckProxyPolicy {
    pub policy: ProxyPolicy,
}

/// Asks the components-installer what it will do of what the control plane wishes to be installed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckMonitoring {
    pub monitoring: Monitoring,
}

/// What is not done as it is wished for. Empty: all of it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    pub refused: Vec<Refused>,
    /// What was asked about is not in force yet: whoever answers has still to hear of it from state-keeper.
    #[serde(default)]
    pub pending: bool,
}

/// There are no errors of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum NoError {}

macro_rules! requests {
    ($($request:ty => $reply:ty, $service:expr, $subject:literal;)*) => {$(
        impl Request for $request {
            type Error = NoError;
            type Reply = $reply;

            const SERVED_BY: Service = $service;
            const SUBJECT: &'static str = $subject;
        }
    )*};
}

requests! {
    AskProxyExecutor => Facts, Service::ProxyExecutor, "pipeops.facts.proxy-executor";
    AskStateKeeper => Facts, Service::StateKeeper, "pipeops.facts.state-keeper";
    CheckProxyPolicy => Verdict, Service::ProxyExecutor, "pipeops.config.proxy.check";
    CheckMonitoring => Verdict, Service::ComponentsInstaller, "pipeops.config.monitoring.check";
}
