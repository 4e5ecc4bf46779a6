//! Paths and query parameters that both ends of the link, and users, know.

/// Where an agent opens its controller WebSocket. The path of the configured URL is replaced by it.
pub const AGENT_WS: &str = "/api/v1/clusters/agent/ws";

/// List of clusters, for users.
pub const CLUSTERS: &str = "/api/v1/clusters";

/// Prefix of the Kubernetes proxy: `<prefix><cluster>/proxy<path of the API server>`.
pub const CLUSTER_PREFIX: &str = "/api/v1/clusters/agent/";

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
    use super::{CLUSTER_PREFIX, split_proxy_path};
    use proptest::prelude::*;

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
