//! What a control plane wishes of a cluster, and what the cluster answers.
//!
//! Every section is a wish: the cluster's owner has limits of their own, which it cannot widen. A section that is absent
//! is not wished for, and what the cluster's own settings say counts.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::stream::{StreamKind, Target};

/// The most entries of a list, and the longest text in one.
const MAX_ENTRIES: usize = 256;
const MAX_TEXT: usize = 253;

/// The shortest and the longest interval of heartbeats, in seconds.
const HEARTBEAT: std::ops::RangeInclusive<u64> = 1..=3600;

/// Every verb that an operation on objects of the Kubernetes API may have.
pub const VERBS: [&str; 8] = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];

/// The whole of it: a later one replaces an earlier one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterConfig {
    /// Grows with each change; what is acknowledged.
    pub revision: u64,
    /// Interval of heartbeats while the link is up, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat_interval_seconds: Option<u64>,
    /// What proxied requests may do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxyPolicy>,
    /// What is to be installed to watch the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monitoring: Option<Monitoring>,
    /// Services that the control plane opens tunnels to. Whether it may is for the cluster to say, entry or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnels: Option<Vec<Forward>>,
}

/// What proxied requests may do. Each limit is one more; nothing here allows what another does not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProxyPolicy {
    /// Only `get`, `list` and `watch`.
    pub read_only: bool,
    /// The verbs of the Kubernetes API that are allowed; absent: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verbs: Option<Vec<String>>,
    /// The namespaces that are allowed; absent: all, and what is in none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<Vec<String>>,
    /// Subresources that are not allowed, such as `pods/exec`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub denied_subresources: Vec<String>,
}

/// What is to be installed to watch the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Monitoring {
    pub enabled: bool,
    /// Components by name (`prometheus`, `loki`, `grafana` …); absent: those of the agent's own settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub components: Option<Vec<String>>,
}

/// A Service that the control plane opens tunnels to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// For people; unique in its list.
    pub name: String,
    pub protocol: Transport,
    pub target: Target,
    /// A tunnel without any byte for this long is ended; absent: the agent's own setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout_seconds: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    Tcp,
    Udp,
}

/// `config_ack`: what became of a [`ClusterConfig`], sent again when that changes. What is neither accepted nor refused was not
/// in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigAck {
    pub revision: u64,
    /// Settings that are in force now, such as `proxy`.
    #[serde(default)]
    pub accepted: Vec<String>,
    /// Settings that are not, or not as they were wished for.
    #[serde(default)]
    pub refused: Vec<Refused>,
}

/// A setting that is not in force as it was wished for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Such as `tunnels[web]`.
    pub setting: String,
    /// For people.
    pub reason: String,
}

/// Why a [`ClusterConfig`] cannot be one. Names the setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidConfig {
    #[error("heartbeat_interval_seconds is {0}: it has to be from 1 to 3600")]
    Heartbeat(u64),
    #[error("{0} has more than {MAX_ENTRIES} entries")]
    TooMany(&'static str),
    #[error("{setting} names {text:?}: 1 to {MAX_TEXT} visible characters without a space are expected")]
    Text { setting: &'static str, text: String },
    #[error("proxy.verbs names {0:?}: there are {all}", all = VERBS.join(", "))]
    Verb(String),
    #[error("two tunnels are called {0:?}")]
    SameName(String),
}

impl ClusterConfig {
    /// Checks what its types do not.
    ///
    /// # Errors
    /// For the first setting that cannot be as it is.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        if let Some(seconds) = self.heartbeat_interval_seconds.filter(|seconds| !HEARTBEAT.contains(seconds)) {
            return Err(InvalidConfig::Heartbeat(seconds));
        }
        if let Some(proxy) = &self.proxy {
            let verbs = proxy.verbs.as_deref().unwrap_or_default();
            if let Some(verb) = verbs.iter().find(|verb| !VERBS.contains(&verb.as_str())) {
                return Err(InvalidConfig::Verb(verb.chars().take(MAX_TEXT).collect()));
            }
            check_list("proxy.namespaces", proxy.namespaces.as_deref().unwrap_or_default())?;
            check_list("proxy.denied_subresources", &proxy.denied_subresources)?;
        }
        if let Some(monitoring) = &self.monitoring {
            check_list("monitoring.components", monitoring.components.as_deref().unwrap_or_default())?;
        }
        let tunnels = self.tunnels.as_deref().unwrap_or_default();
        if tunnels.len() > MAX_ENTRIES {
            return Err(InvalidConfig::TooMany("tunnels"));
        }
        let mut names = std::collections::HashSet::new();
        for forward in tunnels {
            check_text("tunnels", &forward.name)?;
            if !names.insert(&forward.name) {
                return Err(InvalidConfig::SameName(forward.name.clone()));
            }
        }
        Ok(())
    }

    /// [`ClusterConfig::heartbeat_interval_seconds`].
    pub fn heartbeat_interval(&self) -> Option<Duration> {
        self.heartbeat_interval_seconds.map(Duration::from_secs)
    }
}

impl Forward {
    /// The kind of its streams.
    pub fn kind(&self) -> StreamKind {
        self.protocol.into()
    }
}

impl From<Transport> for StreamKind {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Tcp => Self::Tcp,
            Transport::Udp => Self::Udp,
        }
    }
}

fn check_list(setting: &'static str, list: &[String]) -> Result<(), InvalidConfig> {
    if list.len() > MAX_ENTRIES {
        return Err(InvalidConfig::TooMany(setting));
    }
    list.iter().try_for_each(|text| check_text(setting, text))
}

fn check_text(setting: &'static str, text: &str) -> Result<(), InvalidConfig> {
    if (1..=MAX_TEXT).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(())
    } else {
        Err(InvalidConfig::Text { setting, text: text.chars().take(MAX_TEXT).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_not_wished_for() {
        let config: ClusterConfig = serde_json::from_str(r#"{"revision":3,"proxy":{"read_only":true},"x":1}"#).unwrap();
        assert_eq!(config.revision, 3);
        assert_eq!(config.proxy, Some(ProxyPolicy { read_only: true, ..ProxyPolicy::default() }));
        assert_eq!(
            (config.heartbeat_interval(), config.tunnels.as_ref(), config.monitoring.as_ref()),
            (None, None, None)
        );
        assert_eq!(config.check(), Ok(()));
        assert_eq!(serde_json::to_string(&ClusterConfig::default()).unwrap(), r#"{"revision":0}"#);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        let read = |text: &str| serde_json::from_str::<ClusterConfig>(text).unwrap().check();
        assert_eq!(read(r#"{"heartbeat_interval_seconds":0}"#), Err(InvalidConfig::Heartbeat(0)));
        assert!(matches!(read(r#"{"proxy":{"namespaces":["a b"]}}"#), Err(InvalidConfig::Text { .. })));
        let web = r#"{"name":"web","protocol":"tcp","target":"default/web:80"}"#;
        assert_eq!(read(&format!(r#"{{"tunnels":[{web}]}}"#)), Ok(()));
        assert_eq!(read(&format!(r#"{{"tunnels":[{web},{web}]}}"#)), Err(InvalidConfig::SameName("web".into())));
        let many = vec![r#""a""#; 257].join(",");
        let namespaces = read(&format!(r#"{{"proxy":{{"namespaces":[{many}]}}}}"#));
        assert_eq!(namespaces, Err(InvalidConfig::TooMany("proxy.namespaces")));
        assert_eq!(read(r#"{"proxy":{"verbs":["read"]}}"#), Err(InvalidConfig::Verb("read".into())));
        assert_eq!(read(r#"{"proxy":{"verbs":["get","deletecollection"]}}"#), Ok(()));
    }
}
