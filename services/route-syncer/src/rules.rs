//! What of the cluster's objects is a route, and why something is none. No I/O.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::{HTTPIngressPath, Ingress, IngressBackend, IngressClass, IngressTLS};
use kube::ResourceExt as _;
use protocol::Target;
use protocol::route::{
    BackendProtocol, IngressController, IngressRoutes, PathType, Route, RoutePath, RouteRule, RouteSync, TlsMode,
};
use protocol::tunnel::RoutingMode;
use targets::Access;

use crate::controller;

/// An Ingress with either is ours to publish.
const MANAGED_LABEL: (&str, &str) = ("pipeops.io/managed", "true");
const MANAGED_ANNOTATION: (&str, &str) = ("pipeops.io/managed-by", "pipeops");
/// Annotations that the control plane is told: others may be large, and are none of its business.
const TOLD_ANNOTATIONS: &str = "pipeops.io/";
const DEPLOYMENT_ID: &str = "pipeops.io/deployment-id";
const DEPLOYMENT_NAME: &str = "pipeops.io/deployment-name";
const ENVIRONMENT: &str = "pipeops.io/environment";
const OWNER: &str = "pipeops.io/owner";
/// `"true"`: the Service ends TLS.
const PASSTHROUGH: &str = "pipeops.io/tls-passthrough";
/// What is behind Services of these is the cluster's own.
const SYSTEM_NAMESPACES: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];

/// The cluster as it was seen last.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    pub ingresses: Vec<Arc<Ingress>>,
    pub classes: Vec<Arc<IngressClass>>,
    pub services: Vec<Arc<Service>>,
}

/// The routes that the cluster is to have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wished {
    /// What the control plane is told; only which cluster it is has to be filled in.
    pub sync: RouteSync,
    /// By Ingress, what of it is no route.
    pub skipped: BTreeMap<Source, Vec<Skipped>>,
    /// Every Ingress that asks for routes.
    pub sources: Vec<Source>,
}

/// One Ingress.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    pub namespace: String,
    pub name: String,
    /// Another for one of the same name that comes later.
    pub uid: String,
}

/// Why something is no route. For people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Hostname and path, as far as there are any.
    pub what: String,
    pub reason: String,
}

/// Services by name.
#[derive(Debug)]
pub struct Services<'a>(BTreeMap<(&'a str, &'a str), &'a Arc<Service>>);

impl<'a> Services<'a> {
    fn of(services: &'a [Arc<Service>]) -> Self {
        let named = |service: &'a Arc<Service>| {
            let (namespace, name) = (service.metadata.namespace.as_deref()?, service.metadata.name.as_deref()?);
            Some(((namespace, name), service))
        };
        Self(services.iter().filter_map(named).collect())
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<&'a Arc<Service>> {
        self.0.get(&(namespace, name)).copied()
    }

    pub fn in_namespace(&self, namespace: &'static str) -> impl Iterator<Item = &'a Arc<Service>> {
        self.0.iter().filter(move |((of, _), _)| *of == namespace).map(|(_, service)| *service)
    }
}

/// A port as objects have it, if it can be one.
pub fn port_number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port > 0)
}

/// What the cluster's owner wishes to be reached through the control plane.
pub fn wished(objects: &Objects, access: &Access) -> Wished {
    let services = Services::of(&objects.services);
    let controller = controller::find(&services, access);
    let mut managed: Vec<_> = objects.ingresses.iter().filter(|ingress| is_managed(ingress)).collect();
    // Who was first keeps a hostname and path, whichever order they are listed in.
    managed.sort_by_cached_key(|ingress| (ingress.creation_timestamp(), ingress.namespace(), ingress.name_any()));
    let mut reading = Reading { services: &services, access, taken: HashMap::new() };
    let mut wished = Wished {
        sync: RouteSync {
            routing_mode: RoutingMode::Tunnel,
            ingress_controller: controller.clone(),
            ..RouteSync::default()
        },
        ..Wished::default()
    };
    for ingress in managed {
        let source = Source {
            namespace: ingress.namespace().unwrap_or_default(),
            name: ingress.name_any(),
            uid: ingress.uid().unwrap_or_default(),
        };
        let through = controller.as_ref().filter(|found| controller::serves(found, ingress, &objects.classes));
        let (rules, skipped) = reading.ingress(ingress, &source, through);
        if let Some(first) = rules.first() {
            wished.sync.ingresses.push(IngressRoutes {
                namespace: source.namespace.clone(),
                ingress_name: source.name.clone(),
                annotations: annotations(ingress, &first.host),
                rules,
            });
        }
        if !skipped.is_empty() {
            wished.skipped.insert(source.clone(), skipped);
        }
        wished.sources.push(source);
    }
    wished
}

fn is_managed(ingress: &Ingress) -> bool {
    let has = |of: &BTreeMap<String, String>, (key, value): (&str, &str)| of.get(key).is_some_and(|v| v == value);
    let asked = has(ingress.labels(), MANAGED_LABEL) || has(ingress.annotations(), MANAGED_ANNOTATION);
    asked && ingress.metadata.deletion_timestamp.is_none()
}

/// Those of ours, and what is deployed there, as far as it can be told.
fn annotations(ingress: &Ingress, host: &str) -> BTreeMap<String, String> {
    let ours = ingress.annotations().iter().filter(|(key, _)| key.starts_with(TOLD_ANNOTATIONS));
    let mut told: BTreeMap<_, _> = ours.map(|(key, value)| (key.clone(), value.clone())).collect();
    let set = |key: &str| ingress.annotations().get(key).filter(|value| !value.is_empty());
    if set(DEPLOYMENT_ID).is_none()
        && let (Some(environment), Some(owner)) = (set(ENVIRONMENT), set(OWNER))
    {
        told.insert(DEPLOYMENT_ID.to_owned(), format!("{environment}:{owner}"));
    }
    if set(DEPLOYMENT_NAME).is_none() {
        let name = set(OWNER).map_or_else(|| host.split('.').next().unwrap_or_default(), String::as_str);
        told.insert(DEPLOYMENT_NAME.to_owned(), name.to_owned());
    }
    told
}

/// What is read of one Ingress after the other.
#[derive(Debug)]
struct Reading<'a> {
    services: &'a Services<'a>,
    access: &'a Access,
    /// Hostnames and paths, with the Ingress that has them.
    taken: HashMap<(String, String, PathType), String>,
}

impl Reading<'_> {
    fn ingress(
        &mut self,
        ingress: &Ingress,
        source: &Source,
        through: Option<&IngressController>,
    ) -> (Vec<RouteRule>, Vec<Skipped>) {
        let (mut rules, mut skipped) = (Vec::<RouteRule>::new(), Vec::new());
        let spec = ingress.spec.clone().unwrap_or_default();
        let mut skip = |what: String, reason: String| skipped.push(Skipped { what, reason });
        let tls = spec.tls.unwrap_or_default();
        let passed = ingress.annotations().get(PASSTHROUGH).is_some_and(|value| value == "true");
        let tls_mode = if passed { TlsMode::Passthrough } else { TlsMode::Terminate };
        // A controller would end it in place of the Service.
        let through = through.filter(|_| !passed);
        let without_host = "there is no hostname by which clients could ask for it";
        if spec.rules.as_ref().is_none_or(Vec::is_empty) {
            skip("its default backend".to_owned(), without_host.to_owned());
        }
        for rule in spec.rules.unwrap_or_default() {
            let host = rule.host.unwrap_or_default().to_ascii_lowercase();
            if host.is_empty() {
                skip("a rule".to_owned(), without_host.to_owned());
                continue;
            }
            let paths = rule.http.map(|http| http.paths).filter(|paths| !paths.is_empty()).or_else(|| {
                // A rule of nothing but a hostname is for the default backend.
                let backend = spec.default_backend.clone()?;
                Some(vec![HTTPIngressPath { backend, path: None, path_type: "Prefix".to_owned() }])
            });
            let Some(paths) = paths else {
                skip(host, "there is neither a path nor a default backend".to_owned());
                continue;
            };
            for path in paths {
                let shown = format!("{host}{}", path.path.as_deref().unwrap_or("/"));
                let read = self.path(source, &host, path, through);
                match read {
                    Ok(path) => match rules.iter_mut().find(|rule| rule.host == host) {
                        Some(rule) => rule.paths.push(path),
                        None => rules.push(RouteRule {
                            host: host.clone(),
                            tls: passed || tls.iter().any(|tls| covers(tls, &host)),
                            tls_mode,
                            paths: vec![path],
                        }),
                    },
                    Err(reason) => skip(shown, reason),
                }
            }
        }
        (rules, skipped)
    }

    fn path(
        &mut self,
        source: &Source,
        host: &str,
        path: HTTPIngressPath,
        through: Option<&IngressController>,
    ) -> Result<RoutePath, String> {
        let path_type = match path.path_type.as_str() {
            "Exact" => PathType::Exact,
            "ImplementationSpecific" => PathType::ImplementationSpecific,
            _ => PathType::Prefix,
        };
        let text = path.path.filter(|path| !path.is_empty()).unwrap_or_else(|| "/".to_owned());
        let (service, port) = self.backend(&source.namespace, path.backend)?;
        // Also where the way there is by a controller, which reaches everything.
        let backend = Target::new(&source.namespace, &service, port).map_err(|error| error.to_string())?;
        self.access.check(&backend).map_err(|error| error.to_string())?;
        let read = match through {
            Some(controller) => RoutePath {
                path: text,
                path_type,
                service_name: controller.name.clone(),
                service_port: controller.port,
                service_namespace: Some(controller.namespace.clone()),
                protocol: BackendProtocol::Http,
            },
            None => RoutePath {
                path: text,
                path_type,
                service_name: service,
                service_port: port,
                service_namespace: None,
                protocol: BackendProtocol::Http,
            },
        };
        check(source, host, &read, self.access)?;
        let key = (host.to_owned(), read.path.clone(), path_type);
        let this = format!("{}/{}", source.namespace, source.name);
        match self.taken.get(&key) {
            Some(first) if *first == this => Err("it is there twice".to_owned()),
            Some(first) => Err(format!("Ingress {first} has it already")),
            None => {
                self.taken.insert(key, this);
                Ok(read)
            }
        }
    }

    /// Name and port of the Service that a path leads to, when that may be reached from outside.
    fn backend(&self, namespace: &str, backend: IngressBackend) -> Result<(String, u16), String> {
        let Some(backend) = backend.service else {
            return Err("its backend is no Service".to_owned());
        };
        let name = backend.name;
        if SYSTEM_NAMESPACES.contains(&namespace) {
            return Err(format!("what is in namespace {namespace} is the cluster's own"));
        }
        if (namespace, name.as_str()) == ("default", "kubernetes") {
            return Err("the API server is not published".to_owned());
        }
        let Some(service) = self.services.get(namespace, &name) else {
            return Err(format!("there is no Service {name:?}"));
        };
        let spec = service.spec.clone().unwrap_or_default();
        if let Some(kind @ ("LoadBalancer" | "ExternalName")) = spec.type_.as_deref() {
            return Err(format!("Service {name:?} is of type {kind}"));
        }
        let wanted = backend.port.unwrap_or_default();
        let ports = spec.ports.unwrap_or_default();
        let (found, shown) = match (&wanted.name, wanted.number) {
            (Some(called), _) => {
                (ports.iter().find(|port| port.name.as_ref() == Some(called)), format!("called {called:?}"))
            }
            (None, number) => {
                (ports.iter().find(|port| Some(port.port) == number), number.unwrap_or_default().to_string())
            }
        };
        let port = found.and_then(|port| port_number(port.port));
        port.map(|port| (name.clone(), port)).ok_or_else(|| format!("Service {name:?} has no port {shown}"))
    }
}

/// As the control plane will look at it, and gateway-link when clients come.
fn check(source: &Source, host: &str, path: &RoutePath, access: &Access) -> Result<(), String> {
    let route = Route {
        hostname: host.to_owned(),
        cluster_uuid: String::new(),
        namespace: path.service_namespace.clone().unwrap_or_else(|| source.namespace.clone()),
        service_name: path.service_name.clone(),
        service_port: path.service_port,
        ingress_name: String::new(),
        path: path.path.clone(),
        path_type: path.path_type,
        tls: false,
        tls_mode: TlsMode::Terminate,
        protocol: path.protocol,
        annotations: BTreeMap::new(),
        public_endpoint: None,
        routing_mode: RoutingMode::Tunnel,
        deployment_id: None,
        deployment_name: None,
    };
    let target = route.check().map_err(|error| runtime::error_text(&error))?;
    access.check(&target).map_err(|error| error.to_string())
}

/// Whether TLS is asked for by this name: an entry without names is for all.
fn covers(tls: &IngressTLS, host: &str) -> bool {
    let hosts = tls.hosts.as_deref().unwrap_or_default();
    let below = |wildcard: &str| {
        let parent = wildcard.strip_prefix("*.")?;
        let (_, of) = host.split_once('.')?;
        Some(of.eq_ignore_ascii_case(parent))
    };
    hosts.is_empty() || hosts.iter().any(|name| name.eq_ignore_ascii_case(host) || below(name) == Some(true))
}

#[cfg(test)]
#[path = "rules/tests.rs"]
mod tests;
