use protocol::config::ProxyPolicy;
use runtime::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use protocol::config::VERBS;

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

/// What is allowed here, whatever the control plane says. It can allow less, and never more.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Policy {
    /// Let the control plane name users and groups that begin with `system:`. Off by default: `system:masters`
    /// would bypass every rule of the cluster.
    pub allow_system_identities: bool,
    /// Only `get`, `list` and `watch`: no change, and no `exec`, `attach`, `port-forward` or `proxy`.
    pub read_only: bool,
    /// The verbs of the Kubernetes API that are allowed, such as "get,list,watch,create". Unset: all.
    pub verbs: Option<Vec<String>>,
    /// The namespaces that may be reached. Unset: all, and what is in none.
    pub namespaces: Option<Vec<String>>,
    /// Subresources that are not allowed: `pods/exec`, or `*/exec` of everything.
    pub denied_subresources: Vec<String>,
}

/// Why the policy cannot be meant as it is.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPolicy {
    #[error("policy.namespaces names {0:?}: no namespace can be called that")]
    Namespace(String),
    #[error("policy.verbs names {0:?}: the verbs are {verbs}", verbs = VERBS.join(", "))]
    Verb(String),
    #[error("policy.denied_subresources names {0:?}: expected RESOURCE/SUBRESOURCE, such as pods/exec")]
    Subresource(String),
}

impl Policy {
    /// The policy as one like the control plane's.
    pub(crate) fn limits(&self) -> Result<ProxyPolicy, InvalidPolicy> {
        let limits = ProxyPolicy {
            read_only: self.read_only,
            verbs: self.verbs.clone(),
            namespaces: self.namespaces.clone(),
            denied_subresources: self.denied_subresources.clone(),
        };
        let label = |name: &str| {
            (1..=63).contains(&name.len()) && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        };
        if let Some(name) = limits.namespaces.iter().flatten().find(|name| !label(name)) {
            return Err(InvalidPolicy::Namespace(name.clone()));
        }
        let unknown = |verb: &&String| !VERBS.contains(&verb.as_str());
        if let Some(verb) = limits.verbs.iter().flatten().find(unknown) {
            return Err(InvalidPolicy::Verb(verb.clone()));
        }
        let whole = |entry: &str| {
            entry.split_once('/').is_some_and(|(resource, subresource)| {
                !resource.is_empty() && !subresource.is_empty() && !subresource.contains('/')
            })
        };
        match limits.denied_subresources.iter().find(|entry| !whole(entry)) {
            Some(entry) => Err(InvalidPolicy::Subresource(entry.clone())),
            None => Ok(limits),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_that_would_limit_nothing_by_mistake_is_refused() {
        let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
        let fails = |policy: Policy| policy.limits().unwrap_err().to_string();
        let verbs = |list| Policy { verbs: Some(texts(list)), ..Policy::default() };
        assert!(fails(verbs(&["get", "lst"])).contains("\"lst\": the verbs are get, list, watch"));
        assert!(fails(verbs(&["GET"])).contains("GET"));
        assert!(verbs(&["get", "deletecollection"]).limits().is_ok());
        for bad in ["exec", "/exec", "pods/", "pods/exec/x"] {
            let policy = Policy { denied_subresources: texts(&[bad]), ..Policy::default() };
            assert!(fails(policy).contains("pods/exec"), "{bad}");
        }
        for bad in ["a b", "", "A", "a.b"] {
            let policy = Policy { namespaces: Some(texts(&["a", bad])), ..Policy::default() };
            assert!(fails(policy).contains("policy.namespaces"), "{bad}");
        }
    }
}
