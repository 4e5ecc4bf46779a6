//! Paths and query parameters that both ends of the link, and users, know.

use crate::id::ClusterId;

/// Where an agent opens its controller WebSocket. The path of the configured URL is replaced by it.
pub const AGENT_WS: &str = "/api/v1/clusters/agent/ws";

/// Where the gateway's WebSocket is when its URL has no path.
const GATEWAY_WS: &str = "/ws";

/// What an agent of ours can do, for gateways of the published protocol, which take no `register`.
const GATEWAY_FEATURES: &str = "supports_binary=true&supports_response_streaming=true&supports_streaming=true&\
                                supports_websocket=true&supports_yamux=true";

/// Path and query of a gateway's WebSocket: those of its URL, and who comes. A cluster that the URL names already stays.
pub fn gateway_path(url: &http::Uri, cluster: &ClusterId, version: &str) -> String {
    let path = if matches!(url.path(), "" | "/") { GATEWAY_WS } else { url.path() };
    let given = url.query().filter(|query| !query.is_empty()).map(|query| format!("{query}&")).unwrap_or_default();
    let named = given.split('&').any(|pair| pair.starts_with(CLUSTER_PARAMETER));
    let cluster = if named { String::new() } else { format!("{CLUSTER_PARAMETER}{cluster}&") };
    let version: String =
        version.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')).collect();
    format!("{path}?{given}agent_version={version}&{cluster}{GATEWAY_FEATURES}")
}

/// A gateway's URL that names the cluster.
pub fn with_cluster(url: &str, cluster: &ClusterId) -> String {
    let joint = if url.contains('?') { '&' } else { '?' };
    format!("{url}{joint}{CLUSTER_PARAMETER}{cluster}")
}

const CLUSTER_PARAMETER: &str = "cluster_uuid=";

/// List of clusters, for users.
pub const CLUSTERS: &str = "/api/v1/clusters";

/// Prefix of the Kubernetes proxy: `<prefix><cluster>/proxy<path of the API server>`.
pub const CLUSTER_PREFIX: &str = "/api/v1/clusters/agent/";

/// Tunnels of a cluster: list and register. Below it, `sync` makes the agent's whole set be the one that is sent, and a
/// tunnel's id is that tunnel.
pub const TUNNELS: &str = "/api/v1/clusters/agent/{cluster}/tunnels";

/// Routes of the agent's cluster: `POST` to one of these with one route, with all routes, and with a hostname.
pub const ROUTES_REGISTER: &str = "/api/v1/gateway/routes/register";
pub const ROUTES_SYNC: &str = "/api/v1/gateway/routes/sync";
pub const ROUTES_UNREGISTER: &str = "/api/v1/gateway/routes/unregister";
/// List of routes, for users and agents.
pub const ROUTES: &str = "/api/v1/gateway/routes";

/// What follows the cluster's name in a proxied path.
pub const PROXY_SEGMENT: &str = "/proxy";

/// Splits the path of a proxied request into the cluster and the path at the API server (`/` when nothing follows).
///
/// `None` when the path is not a proxied one. The cluster's name is not checked and not percent-decoded.
pub fn split_proxy_path(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix(CLUSTER_PREFIX)?;
    let (cluster, _) = rest.split_once('/')?;
    let tail = rest.strip_prefix(cluster)?.strip_prefix(PROXY_SEGMENT)?;
    if cluster.is_empty() {
        return None;
    }
    match tail {
        "" => Some((cluster, "/")),
        _ if tail.starts_with('/') => Some((cluster, tail)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{CLUSTER_PREFIX, gateway_path, split_proxy_path, with_cluster};
    use crate::ClusterId;
    use proptest::prelude::*;

    #[test]
    fn a_gateway_is_told_who_comes() {
        let path = |url: &str| gateway_path(&url.parse().unwrap(), &ClusterId::new("c-1").unwrap(), "1.0 &x");
        let features = "supports_binary=true&supports_response_streaming=true&supports_streaming=true&supports_websocket=true&supports_yamux=true";
        assert_eq!(path("wss://gw.example"), format!("/ws?agent_version=1.0x&cluster_uuid=c-1&{features}"));
        assert_eq!(path("wss://gw.example/a?b=1"), format!("/a?b=1&agent_version=1.0x&cluster_uuid=c-1&{features}"));
        let named = with_cluster("wss://gw.example/a?b=1", &ClusterId::new("u-1").unwrap());
        assert_eq!(path(&named), format!("/a?b=1&cluster_uuid=u-1&agent_version=1.0x&{features}"));
    }

    #[test]
    fn a_proxied_path_gives_the_cluster_and_the_rest() {
        let split = |p| split_proxy_path(p);
        assert_eq!(split("/api/v1/clusters/agent/prod/proxy/api/v1/pods"), Some(("prod", "/api/v1/pods")));
        assert_eq!(split("/api/v1/clusters/agent/prod/proxy"), Some(("prod", "/")));
        assert_eq!(split("/api/v1/clusters/agent/prod/proxy/"), Some(("prod", "/")));
        assert_eq!(split("/api/v1/clusters/agent/prod/proxyx/api"), None);
        assert_eq!(split("/api/v1/clusters/agent//proxy/api"), None);
        assert_eq!(split("/api/v1/clusters/agent/ws"), None);
        assert_eq!(split("/api/v1/pods"), None);
    }

    proptest! {
        #[test]
        fn what_is_split_can_be_joined(path in "(?s).{0,60}|(/api/v1/clusters/agent/)?[a-z/%.?]{0,12}(/proxy)?[a-z/%.?ü]{0,20}") {
            if let Some((cluster, rest)) = split_proxy_path(&path) {
                prop_assert!(!cluster.is_empty() && !cluster.contains('/') && rest.starts_with('/'));
                let joined = format!("{CLUSTER_PREFIX}{cluster}/proxy{rest}");
                prop_assert!(joined == path || joined == format!("{path}/"), "{} is not {}", joined, path);
            }
        }
    }
}
