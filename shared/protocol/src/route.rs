//! Routes as the REST endpoints of the control plane carry them (`/api/v1/gateway/routes/…`): a hostname, and a path below it,
//! that lead to a port of a Service. The names are those of the published protocol.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::stream::{InvalidTarget, Target};
use crate::tunnel::RoutingMode;

/// The longest hostname that DNS has, and the longest path, in bytes.
const MAX_HOST: usize = 253;
const MAX_PATH: usize = 1024;
/// What annotations begin with that are kept, up to [`MAX_ANNOTATIONS`] of an object.
pub const OURS: &str = "pipeops.io/";
/// Bytes of names and values together.
const MAX_ANNOTATIONS: usize = 2048;

/// How a path is compared, as in an Ingress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PathType {
    Exact,
    /// By whole segments: `/a` is `/a` and `/a/b`, and not `/ab`.
    #[default]
    Prefix,
    /// As [`PathType::Prefix`] here.
    ImplementationSpecific,
}

/// What the Service speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendProtocol {
    /// HTTP/1.1.
    #[default]
    Http,
    /// HTTP/2 without TLS, begun at once: gRPC, and what names it `kubernetes.io/h2c`.
    H2c,
}

/// Who ends TLS, as in a Gateway's listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TlsMode {
    /// The control plane.
    #[default]
    Terminate,
    /// The Service: connections go there by the hostname of their first message, and nothing of them is looked at.
    Passthrough,
}

/// `register`: one route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Such as `shop.example.com`, or `*.example.com` for any one label.
    pub hostname: String,
    /// The cluster's id, or its name.
    #[serde(default)]
    pub cluster_uuid: String,
    /// Of the Service.
    pub namespace: String,
    pub service_name: String,
    pub service_port: u16,
    /// The object that it comes from. For people.
    #[serde(default)]
    pub ingress_name: String,
    #[serde(default = "root", deserialize_with = "path")]
    pub path: String,
    #[serde(default, deserialize_with = "path_type")]
    pub path_type: PathType,
    /// Clients come by HTTPS; HTTP is redirected there.
    #[serde(default)]
    pub tls: bool,
    /// Not in the published protocol.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tls_mode: TlsMode,
    /// Not in the published protocol.
    #[serde(default, skip_serializing_if = "is_default")]
    pub protocol: BackendProtocol,
    /// Those of ours, see [`OURS`].
    #[serde(default, deserialize_with = "annotations", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Where clients reach the cluster without the control plane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_endpoint: Option<String>,
    #[serde(default)]
    pub routing_mode: RoutingMode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment_name: Option<String>,
}

/// `unregister`: all routes of the cluster with that hostname.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unregister {
    pub hostname: String,
}

/// `sync`: all routes of a cluster. Those that are not among them are no more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteSync {
    #[serde(default)]
    pub cluster_uuid: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_endpoint: Option<String>,
    #[serde(default)]
    pub routing_mode: RoutingMode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_controller: Option<IngressController>,
    /// Go writes `null` for an empty list.
    #[serde(deserialize_with = "list")]
    pub ingresses: Vec<IngressRoutes>,
}

/// The Service that routes lead to where they lead to an ingress controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressController {
    pub name: String,
    pub namespace: String,
    pub port: u16,
    /// `traefik`, `nginx` or `unknown`.
    #[serde(rename = "type")]
    pub kind: String,
}

/// What one object asks for: an Ingress, or an HTTPRoute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressRoutes {
    pub namespace: String,
    pub ingress_name: String,
    /// Those of ours, see [`OURS`].
    #[serde(default, deserialize_with = "annotations", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(deserialize_with = "list")]
    pub rules: Vec<RouteRule>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRule {
    pub host: String,
    #[serde(default)]
    pub tls: bool,
    /// Not in the published protocol.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tls_mode: TlsMode,
    #[serde(deserialize_with = "list")]
    pub paths: Vec<RoutePath>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutePath {
    #[serde(default = "root", deserialize_with = "path")]
    pub path: String,
    #[serde(default, deserialize_with = "path_type")]
    pub path_type: PathType,
    pub service_name: String,
    pub service_port: u16,
    /// Where it is not the object's: that of an ingress controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_namespace: Option<String>,
    /// Not in the published protocol.
    #[serde(default, skip_serializing_if = "is_default")]
    pub protocol: BackendProtocol,
}

/// What became of each route of `register` and `sync`. The published protocol has no body here; the existing agent reads none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteAnswer {
    pub accepted: Vec<AcceptedRoute>,
    pub rejected: Vec<RejectedRoute>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptedRoute {
    pub hostname: String,
    pub path: String,
    /// Where clients find it, such as `https://shop.example.com/`.
    pub url: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectedRoute {
    pub hostname: String,
    pub path: String,
    /// For people; names the owner where another cluster has the hostname.
    pub reason: String,
}

/// Why a route cannot be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRoute {
    #[error("{0:?} is no hostname: labels of a-z, 0-9 and '-' with dots between them, the first may be '*'")]
    Hostname(String),
    #[error("the path {0:?} does not begin with '/', is longer than {MAX_PATH} bytes, or holds what no path may")]
    Path(String),
    #[error("its Service {service:?} in {namespace:?}, port {port}, is none")]
    Service {
        namespace: String,
        service: String,
        port: u16,
        #[source]
        source: InvalidTarget,
    },
    #[error("its {0} is longer than {MAX_HOST} bytes")]
    Text(&'static str),
}

impl Route {
    /// Where it leads, after hostname and path were checked.
    ///
    /// # Errors
    /// For the first part that cannot be as it is.
    pub fn check(&self) -> Result<Target, InvalidRoute> {
        let shown = |text: &str| text.chars().take(MAX_HOST).collect::<String>();
        if !is_hostname(&self.hostname) {
            return Err(InvalidRoute::Hostname(shown(&self.hostname)));
        }
        let texts = [
            ("ingress_name", Some(&self.ingress_name)),
            ("public_endpoint", self.public_endpoint.as_ref()),
            ("deployment_id", self.deployment_id.as_ref()),
            ("deployment_name", self.deployment_name.as_ref()),
        ];
        if let Some((what, _)) = texts.into_iter().find(|(_, text)| text.is_some_and(|text| text.len() > MAX_HOST)) {
            return Err(InvalidRoute::Text(what));
        }
        let plain = self.path.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#\\".contains(&byte));
        if !self.path.starts_with('/') || self.path.len() > MAX_PATH || !plain {
            return Err(InvalidRoute::Path(shown(&self.path)));
        }
        Target::new(&self.namespace, &self.service_name, self.service_port).map_err(|source| InvalidRoute::Service {
            namespace: shown(&self.namespace),
            service: shown(&self.service_name),
            port: self.service_port,
            source,
        })
    }
}

impl RouteSync {
    /// The existing agent names its ingress controller's Service in each path, and only here which namespace that is in.
    fn controller_namespace(&self, path: &RoutePath) -> Option<&String> {
        let controller = self.ingress_controller.as_ref()?;
        (controller.name == path.service_name && controller.port == path.service_port).then_some(&controller.namespace)
    }

    /// Each route by itself.
    pub fn routes(&self) -> impl Iterator<Item = Route> {
        self.ingresses.iter().flat_map(move |ingress| {
            ingress.rules.iter().flat_map(move |rule| {
                rule.paths.iter().map(move |path| Route {
                    hostname: rule.host.to_ascii_lowercase(),
                    cluster_uuid: self.cluster_uuid.clone(),
                    namespace: path
                        .service_namespace
                        .as_ref()
                        .or_else(|| self.controller_namespace(path))
                        .unwrap_or(&ingress.namespace)
                        .clone(),
                    service_name: path.service_name.clone(),
                    service_port: path.service_port,
                    ingress_name: ingress.ingress_name.clone(),
                    path: path.path.clone(),
                    path_type: path.path_type,
                    tls: rule.tls,
                    tls_mode: rule.tls_mode,
                    protocol: path.protocol,
                    annotations: ingress.annotations.clone(),
                    public_endpoint: self.public_endpoint.clone(),
                    routing_mode: self.routing_mode,
                    deployment_id: None,
                    deployment_name: None,
                })
            })
        })
    }
}

/// Whether a certificate and a `Host` can have that name.
pub fn is_hostname(text: &str) -> bool {
    let rest = text.strip_prefix("*.").unwrap_or(text);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= MAX_HOST && rest.split('.').all(is_label)
}

fn root() -> String {
    "/".to_owned()
}

/// An Ingress may leave it empty.
fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.filter(|path| !path.is_empty()).unwrap_or_else(root))
}

/// The same.
fn path_type<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathType, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?.unwrap_or_default();
    Ok(match text.as_str() {
        "Exact" => PathType::Exact,
        "ImplementationSpecific" => PathType::ImplementationSpecific,
        _ => PathType::Prefix,
    })
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Only those of ours: an object has many, some of the size of the object itself.
fn annotations<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    let mut all = Option::<BTreeMap<String, String>>::deserialize(deserializer)?.unwrap_or_default();
    let mut room = MAX_ANNOTATIONS;
    all.retain(|name, value| {
        let left = room.checked_sub(name.len() + value.len()).filter(|_| name.starts_with(OURS));
        room = left.unwrap_or(room);
        left.is_some()
    });
    Ok(all)
}

fn list<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SYNC: &str = r#"{"cluster_uuid":"u-1","routing_mode":"tunnel",
        "ingress_controller":{"name":"traefik","namespace":"pipeops-system","port":80,"type":"traefik"},
        "ingresses":[{"namespace":"shop","ingress_name":"web","annotations":{"a":"b","pipeops.io/owner":"ana"},"rules":[
            {"host":"Shop.Example.com","tls":true,"paths":[
                {"path":"","path_type":"","service_name":"web","service_port":80},
                {"path":"/api","path_type":"Exact","service_name":"api","service_port":8080}]},
            {"host":"none.example.com","tls":false,"paths":null}]}]}"#;

    #[test]
    fn what_the_existing_agent_syncs_is_a_route_for_each_path() {
        let sync: RouteSync = serde_json::from_str(SYNC).unwrap();
        let routes: Vec<_> = sync.routes().collect();
        assert_eq!(routes.len(), 2);
        assert_eq!((routes[0].hostname.as_str(), routes[0].path.as_str()), ("shop.example.com", "/"));
        assert_eq!(routes[1].path_type, PathType::Exact);
        assert_eq!(routes[1].annotations, [("pipeops.io/owner".to_owned(), "ana".to_owned())].into());
        assert_eq!(routes[1].check().unwrap().to_string(), "shop/api:8080");
        let empty: RouteSync = serde_json::from_str(r#"{"cluster_uuid":"u-1","ingresses":null}"#).unwrap();
        assert_eq!(empty.routes().count(), 0);
        assert!(serde_json::from_str::<RouteSync>("{}").is_err(), "a set that is not sent is not an empty one");
    }

    #[test]
    fn a_path_that_leads_to_the_ingress_controller_leads_to_its_namespace() {
        let mut sync: RouteSync = serde_json::from_str(SYNC).unwrap();
        let path = &mut sync.ingresses[0].rules[0].paths[0];
        path.service_name = "traefik".to_owned();
        assert_eq!(sync.routes().next().unwrap().check().unwrap().to_string(), "pipeops-system/traefik:80");
        sync.ingresses[0].rules[0].paths[0].service_namespace = Some("shop".to_owned());
        assert_eq!(sync.routes().next().unwrap().check().unwrap().to_string(), "shop/traefik:80");
    }

    #[test]
    fn what_can_be_no_route_is_refused_by_name() {
        let sync: RouteSync = serde_json::from_str(SYNC).unwrap();
        let route = sync.routes().next().unwrap();
        for hostname in ["", "a..b", "-a.b", "a_b.c", "*.*.c", "*", "a.b:80", "ä.b"] {
            let route = Route { hostname: hostname.to_owned(), ..route.clone() };
            assert_eq!(route.check(), Err(InvalidRoute::Hostname(hostname.to_owned())));
        }
        for path in ["a", "/a b", "/a?b", "/ü"] {
            let route = Route { path: path.to_owned(), ..route.clone() };
            assert_eq!(route.check(), Err(InvalidRoute::Path(path.to_owned())));
        }
        let long = Route { ingress_name: "a".repeat(MAX_HOST + 1), ..route.clone() };
        assert_eq!(long.check(), Err(InvalidRoute::Text("ingress_name")));
        let error = Route { service_port: 0, ..route }.check().unwrap_err();
        assert_eq!(error.to_string(), r#"its Service "web" in "shop", port 0, is none"#);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(?s).{0,200}", path in "(?s).{0,40}") {
            let sync: RouteSync = serde_json::from_str(SYNC).unwrap();
            let route = sync.routes().next().unwrap();
            let _checked = Route { hostname: text, path, ..route }.check();
        }
    }
}
