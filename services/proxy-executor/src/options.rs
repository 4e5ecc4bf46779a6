use runtime::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of the proxy-executor.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Options {
    #[serde(flatten)]
    pub common: runtime::Common,
    /// The bus this service takes its requests from.
    pub bus: bus::Options,
    /// The API server that requests are run against.
    pub kubernetes: Kubernetes,
    /// Whose rights a proxied request has.
    pub rbac: Rbac,
    /// What the cluster's owner allows.
    pub policy: Policy,
    /// Services whose HTTP servers the control plane may have reached.
    pub services: Services,
}

impl runtime::Options for Options {
    const ENV: &'static [(&'static str, &'static str)] = &[];

    fn common(&self) -> &runtime::Common {
        &self.common
    }
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Kubernetes {
    #[serde(flatten)]
    pub server: kubernetes::ApiServer,
    /// Idle API server connections kept for the next request.
    pub max_idle_connections: usize,
}

impl Default for Kubernetes {
    fn default() -> Self {
        Self { server: kubernetes::ApiServer::default(), max_idle_connections: 256 }
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Rbac {
    /// `impersonate`: each request runs as the user who made it. `view`, `admin`, `custom`: every request runs as
    /// this pod's ServiceAccount, with the rights the chart gave it under that name.
    pub mode: RbacMode,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RbacMode {
    #[default]
    Impersonate,
    View,
    Admin,
    Custom,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Services {
    #[serde(flatten)]
    pub access: targets::Access,
    /// The cluster's domain, under which Services have their names. Unset: the one that this pod searches by its
    /// /etc/resolv.conf, else "cluster.local".
    pub cluster_domain: Option<String>,
    /// How long a connection may take to come about.
    pub connection_timeout: Duration,
}

impl Default for Services {
    fn default() -> Self {
        Self { access: targets::Access::default(), cluster_domain: None, connection_timeout: Duration::from_secs(10) }
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Policy {
    /// Let the control plane name users and groups that begin with `system:`. Off by default: `system:masters`
    /// would bypass every rule of the cluster.
    pub allow_system_identities: bool,
}
