use std::path::{Path, PathBuf};

use kubernetes::SERVICE_ACCOUNT;
use protocol::{AgentId, Secret};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The namespace when nothing says another.
const NAMESPACE: &str = "pipeops-system";

/// Settings of state-keeper.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Options {
    #[serde(flatten)]
    pub common: runtime::Common,
    /// The bus this service answers on.
    pub bus: bus::Options,
    /// The API server that holds the state.
    pub kubernetes: Kubernetes,
    /// What holds the state: two objects of the cluster, or a file.
    pub state: State,
    /// The agent itself.
    pub agent: Agent,
}

impl runtime::Options for Options {
    const ENV: &'static [(&'static str, &'static str)] = &[("PIPEOPS_POD_NAMESPACE", "state.namespace")];

    fn common(&self) -> &runtime::Common {
        &self.common
    }
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Kubernetes {
    #[serde(flatten)]
    pub server: kubernetes::ApiServer,
    /// How often the state is read to see that it can be; "10s".
    pub check_interval: runtime::Duration,
    /// How long one request to the API server may take; "3s".
    pub timeout: runtime::Duration,
}

impl Default for Kubernetes {
    fn default() -> Self {
        Self {
            server: kubernetes::ApiServer::default(),
            check_interval: runtime::Duration::from_secs(10),
            timeout: runtime::Duration::from_secs(3),
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct State {
    /// Name of the ConfigMap.
    pub configmap_name: String,
    /// Name of the Secret.
    pub secret_name: String,
    /// Namespace of both. Unset: the pod's own, else pipeops-system.
    pub namespace: Option<String>,
    /// Outside a cluster: one encrypted file that holds the state instead, for one process. Its folder has to be there.
    pub file: Option<PathBuf>,
    /// File with the key of `state.file`: 32 bytes, as they are, as 64 hex digits or as base64.
    pub key_file: Option<PathBuf>,
    /// The key itself, as 64 hex digits or as base64, instead of `state.key_file`.
    #[schemars(with = "Option<runtime::SecretSchema>")]
    pub key: Option<Secret>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            configmap_name: "pipeops-agent-state".into(),
            secret_name: "pipeops-agent-secrets".into(),
            namespace: None,
            file: None,
            key_file: None,
            key: None,
        }
    }
}

impl State {
    /// The file to keep the state in, when it is to be one.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.file.as_deref().filter(|path| !path.as_os_str().is_empty())
    }

    /// The namespace to use.
    pub(crate) fn namespace(&self) -> String {
        let given = self.namespace.clone().filter(|name| !name.is_empty());
        given
            .or_else(|| std::fs::read_to_string(Path::new(SERVICE_ACCOUNT).join("namespace")).ok())
            .map(|name| name.trim().to_owned())
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| NAMESPACE.to_owned())
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Agent {
    /// A fixed id of this agent; it replaces a stored one. Unset: made once and kept.
    #[schemars(with = "Option<String>")]
    pub id: Option<AgentId>,
}
