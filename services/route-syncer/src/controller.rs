//! Which Service is the ingress controller's: routes lead there, so that what it does for an Ingress is done for clients of the
//! control plane too.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use kube::ResourceExt as _;
use protocol::Target;
use protocol::route::IngressController;
use targets::Access;

use crate::rules::{Services, port_number};

/// Namespace and name of those that are taken for it wherever they are, first ones first.
const KNOWN: [(&str, &str); 5] = [
    ("pipeops-system", "traefik"),
    ("ingress-nginx", "ingress-nginx-controller"),
    ("kube-system", "rke2-ingress-nginx-controller"),
    ("kube-system", "traefik"),
    ("traefik", "traefik"),
];
/// Else one with such a label, in these namespaces.
const NAMESPACES: [&str; 5] = ["pipeops-system", "kube-system", "traefik", "ingress-nginx", "default"];
const LABELS: [(&str, &str); 3] = [
    ("app.kubernetes.io/name", "traefik"),
    ("app.kubernetes.io/name", "ingress-nginx"),
    ("k8s-app", "traefik-ingress-lb"),
];
/// The class of an Ingress before there was `spec.ingressClassName`.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// The cluster's, if there is one that takes plain HTTP, as the gateway has ended TLS already, and that may be reached from there.
pub fn find(services: &Services<'_>, access: &Access) -> Option<IngressController> {
    let known = KNOWN.iter().filter_map(|(namespace, name)| services.get(namespace, name));
    let labelled = NAMESPACES.iter().flat_map(|namespace| {
        LABELS.iter().flat_map(|(key, value)| {
            services
                .in_namespace(namespace)
                .filter(move |service| service.labels().get(*key).is_some_and(|v| v == value))
        })
    });
    let may_be_reached = |found: &IngressController| {
        Target::new(&found.namespace, &found.name, found.port).is_ok_and(|target| access.check(&target).is_ok())
    };
    known.chain(labelled).filter_map(of).find(may_be_reached)
}

fn of(service: &Arc<Service>) -> Option<IngressController> {
    let is_http = |port: &&ServicePort| matches!(port.name.as_deref(), Some("http" | "web")) || port.port == 80;
    let ports = service.spec.as_ref()?.ports.as_deref().unwrap_or_default();
    let port = port_number(ports.iter().find(is_http)?.port)?;
    let labels: String = service.labels().values().map(String::as_str).collect::<Vec<_>>().join(" ");
    let kind = kind(&format!("{} {labels}", service.name_any()));
    Some(IngressController {
        name: service.name_any(),
        namespace: service.namespace()?,
        port,
        kind: kind.unwrap_or("unknown").to_owned(),
    })
}

fn kind(text: &str) -> Option<&'static str> {
    ["traefik", "nginx"].into_iter().find(|kind| text.contains(kind))
}

/// Whether `controller` is the one that serves this Ingress: it does when the Ingress names no class, and one of its kind.
pub fn serves(controller: &IngressController, ingress: &Ingress, classes: &[Arc<IngressClass>]) -> bool {
    let named = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_ref());
    let Some(name) = named.or_else(|| ingress.annotations().get(CLASS_ANNOTATION)) else { return true };
    let class = classes.iter().find(|class| class.name_any() == *name);
    let program = class.and_then(|class| class.spec.as_ref()?.controller.as_deref()).unwrap_or(name);
    // A controller of an unknown kind may be of any class.
    controller.kind == "unknown" || kind(program) == Some(&controller.kind)
}
