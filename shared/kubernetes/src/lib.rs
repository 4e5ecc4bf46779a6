//! How a pod finds its API server: the settings that services with rights in the cluster have in common.
//!
//! With feature `client` also a client, for services that read objects; the one that relays requests speaks HTTP itself.

#[cfg(feature = "client")]
mod client;

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[cfg(feature = "client")]
pub use client::AccessError;

/// Where every pod finds its ServiceAccount: `ca.crt`, `token` and `namespace`.
pub const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The API server, and this pod's credentials for it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ApiServer {
    /// Address of the API server. Unset: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT, as in every pod.
    pub api_url: Option<String>,
    /// PEM file of the authority that signed the API server's certificate. Re-read, so that a rotated one is used.
    pub ca_file: PathBuf,
    /// File with this pod's ServiceAccount token. Re-read, so that a rotated one is used.
    pub token_file: PathBuf,
}

/// There is no address to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the API server's address is not known: set kubernetes.api_url, or run in a pod")]
pub struct NoAddress;

impl Default for ApiServer {
    fn default() -> Self {
        let folder = Path::new(SERVICE_ACCOUNT);
        Self { api_url: None, ca_file: folder.join("ca.crt"), token_file: folder.join("token") }
    }
}

impl ApiServer {
    /// `https://HOST:PORT`, as set or as the kubelet tells every pod.
    pub fn url(&self) -> Result<String, NoAddress> {
        let given = self.api_url.clone().filter(|url| !url.is_empty());
        given.or_else(|| in_cluster(|name| std::env::var(name).ok())).ok_or(NoAddress)
    }
}

fn in_cluster(variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    let set = |name| variable(name).filter(|value| !value.is_empty());
    let host = set("KUBERNETES_SERVICE_HOST")?;
    let port = set("KUBERNETES_SERVICE_PORT").unwrap_or_else(|| "443".into());
    // An IPv6 address stands in brackets in a URL.
    Some(if host.contains(':') { format!("https://[{host}]:{port}") } else { format!("https://{host}:{port}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(host: &str, port: &str) -> Option<String> {
        in_cluster(|name| match name {
            "KUBERNETES_SERVICE_HOST" => Some(host.to_owned()),
            "KUBERNETES_SERVICE_PORT" => Some(port.to_owned()),
            _ => None,
        })
    }

    #[test]
    fn the_kubelets_variables_give_the_address() {
        assert_eq!(pod("10.96.0.1", "6443").as_deref(), Some("https://10.96.0.1:6443"));
        assert_eq!(pod("fd00::1", "").as_deref(), Some("https://[fd00::1]:443"));
        assert_eq!(pod("", "443"), None);
    }

    #[test]
    fn what_is_set_wins() {
        let set = ApiServer { api_url: Some("https://kube.example.com".into()), ..ApiServer::default() };
        assert_eq!(set.url().as_deref(), Ok("https://kube.example.com"));
    }
}
