//! THE table: every subject of the bus, what travels on it, who may publish and who subscribes.
//!
//! The chart's NATS users get exactly what [`permissions`] says, and the in-process bus enforces the same.

use std::fmt::Write as _;

use protocol::StreamKind;

use crate::{
    Request, Service,
    facts::{AskProxyExecutor, AskStateKeeper, CheckMonitoring, CheckProxyPolicy},
    routes::{GetLink, SyncRoutes, SyncTunnels, UnregisterRoute},
    state::{
        AcquireLease, GetConfig, GetIdentity, GetLinkToken, ReleaseLease, SaveConfig, SaveLinkToken, SaveRegistration,
    },
};

/// How a subject is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// One JSON message, one JSON answer to the caller's inbox.
    Request,
    /// The opening of a byte stream; the stream's frames then go between the two instances' own subjects.
    Stream(StreamKind),
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub subject: &'static str,
    pub pattern: Pattern,
    /// The payload and what answers it.
    pub payload: &'static str,
    pub publishers: &'static [Service],
    /// Whose instances share the subject, as a queue group named after the service.
    pub subscriber: Service,
}

/// Prefix of the subjects that stream frames go to: `<prefix>.<service>.<instance>`.
pub const STREAM_IO: &str = "pipeops.stream.io";

const LINK: &[Service] = &[Service::GatewayLink];
/// Those who want to know how the others are.
const OBSERVERS: &[Service] = &[Service::GatewayLink, Service::LocalApi];
/// Those who tell the control plane what the cluster publishes.
const PUBLISHER: &[Service] = &[Service::RouteSyncer];
/// Those of which one instance leads.
const CANDIDATES: &[Service] = &[Service::GatewayLink, Service::RouteSyncer, Service::ComponentsInstaller];
/// Those whom the control plane's wishes concern.
const CONFIGURED: &[Service] = &[
    Service::GatewayLink,
    Service::ProxyExecutor,
    Service::RouteSyncer,
    Service::ComponentsInstaller,
    Service::LocalApi,
];

/// A row of a request.
const fn request<R: Request>(publishers: &'static [Service], payload: &'static str) -> Row {
    Row { subject: R::SUBJECT, pattern: Pattern::Request, payload, publishers, subscriber: R::SERVED_BY }
}

pub const TABLE: &[Row] = &[
    request::<GetIdentity>(OBSERVERS, "state::GetIdentity -> state::Identity | state::StateError"),
    request::<SaveRegistration>(LINK, "state::SaveRegistration -> state::Identity | state::StateError"),
    request::<GetLinkToken>(LINK, "state::GetLinkToken -> state::StoredLinkToken | state::StateError"),
    request::<SaveLinkToken>(LINK, "state::SaveLinkToken -> state::Done | state::StateError"),
    request::<GetConfig>(CONFIGURED, "state::GetConfig -> state::StoredConfig | state::StateError"),
    request::<SaveConfig>(LINK, "state::SaveConfig -> state::Done | state::StateError"),
    request::<AcquireLease>(CANDIDATES, "state::AcquireLease -> state::LeaseState | state::StateError"),
    request::<ReleaseLease>(CANDIDATES, "state::ReleaseLease -> state::Done | state::StateError"),
    request::<GetLink>(PUBLISHER, "routes::GetLink -> routes::LinkSeen"),
    request::<SyncRoutes>(PUBLISHER, "routes::SyncRoutes -> routes::SyncedRoutes | routes::CallError"),
    request::<UnregisterRoute>(PUBLISHER, "routes::UnregisterRoute -> state::Done | routes::CallError"),
    request::<SyncTunnels>(PUBLISHER, "routes::SyncTunnels -> tunnel::TunnelSyncAnswer | routes::CallError"),
    request::<AskProxyExecutor>(OBSERVERS, "facts::AskProxyExecutor -> facts::Facts"),
    request::<AskStateKeeper>(OBSERVERS, "facts::AskStateKeeper -> facts::Facts"),
    request::<CheckProxyPolicy>(LINK, "facts::CheckProxyPolicy -> facts::Verdict"),
    request::<CheckMonitoring>(LINK, "facts::CheckMonitoring -> facts::Verdict"),
    Row {
        subject: stream_open(StreamKind::Kube),
        pattern: Pattern::Stream(StreamKind::Kube),
        payload: "OpenHeader, then HTTP/1.1 for the Kubernetes API",
        publishers: &[Service::GatewayLink],
        subscriber: Service::ProxyExecutor,
    },
    Row {
        subject: stream_open(StreamKind::Http),
        pattern: Pattern::Stream(StreamKind::Http),
        payload: "OpenHeader, then HTTP/1.1 for an in-cluster service",
        publishers: &[Service::GatewayLink],
        subscriber: Service::ProxyExecutor,
    },
];

/// The subject that streams of this kind are opened on.
#[must_use]
pub const fn stream_open(kind: StreamKind) -> &'static str {
    match kind {
        StreamKind::Kube => "pipeops.stream.open.kube",
        StreamKind::Http => "pipeops.stream.open.http",
        StreamKind::Tcp => "pipeops.stream.open.tcp",
        StreamKind::Udp => "pipeops.stream.open.udp",
    }
}

/// Prefix of the inboxes that answers to a service's requests go to.
#[must_use]
pub fn inbox(service: Service) -> String {
    format!("_INBOX_{service}")
}

/// What a bus user may do: NATS subjects, wildcards included, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    pub publish: Vec<String>,
    pub subscribe: Vec<String>,
    /// Whether it may answer the requests that reach it.
    pub allow_responses: bool,
}

/// A service's rights, derived from [`TABLE`].
#[must_use]
pub fn permissions(service: Service) -> Permissions {
    let mut permissions = Permissions::default();
    for row in TABLE {
        let publishes = row.publishers.contains(&service);
        let subscribes = row.subscriber == service;
        if publishes {
            permissions.publish.push(row.subject.to_owned());
        }
        if subscribes {
            permissions.subscribe.push(row.subject.to_owned());
        }
        match row.pattern {
            Pattern::Request => {
                if publishes {
                    permissions.subscribe.push(format!("{}.>", inbox(service)));
                }
                permissions.allow_responses |= subscribes;
            }
            Pattern::Stream(_) => {
                if publishes {
                    permissions.publish.push(format!("{STREAM_IO}.{}.>", row.subscriber));
                }
                if subscribes {
                    let peers = row.publishers.iter().map(|peer| format!("{STREAM_IO}.{peer}.>"));
                    permissions.publish.extend(peers);
                }
                if publishes || subscribes {
                    permissions.subscribe.push(format!("{STREAM_IO}.{service}.>"));
                }
            }
        }
    }
    for list in [&mut permissions.publish, &mut permissions.subscribe] {
        list.sort();
        list.dedup();
    }
    permissions
}

/// Whether a NATS subject pattern, `*` and `>` included, covers `subject`.
#[must_use]
pub fn matches(pattern: &str, subject: &str) -> bool {
    let mut subject = subject.split('.');
    for token in pattern.split('.') {
        match (token, subject.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (token, Some(part)) if token == part => {}
            _ => return false,
        }
    }
    subject.next().is_none()
}

/// Where the chart keeps [`permissions_yaml`], from the repository's root.
pub const PERMISSIONS_FILE: &str = "charts/pipeops-agent/charts/nats/files/permissions.yaml";

/// The permissions of every service, as the chart reads them.
#[must_use]
pub fn permissions_yaml() -> String {
    let mut out = String::from("# Generated by `cargo lab generate` from shared/bus/src/subjects.rs; do not edit.\n");
    for service in Service::ALL {
        let Permissions { publish, subscribe, allow_responses } = permissions(service);
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{service}:");
        for (name, list) in [("publish", publish), ("subscribe", subscribe)] {
            if list.is_empty() {
                let _ = writeln!(out, "  {name}: []");
                continue;
            }
            let _ = writeln!(out, "  {name}:");
            for subject in list {
                let _ = writeln!(out, "    - \"{subject}\"");
            }
        }
        let _ = writeln!(out, "  allow_responses: {allow_responses}");
    }
    out
}

#[cfg(test)]
#[path = "subjects/tests.rs"]
mod tests;
