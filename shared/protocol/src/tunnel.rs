//! Tunnels as the REST endpoints of the control plane carry them (`/api/v1/clusters/agent/<cluster>/tunnels`): a port of the
//! control plane that leads to a port of a Service. The names are those of the published protocol.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::Transport;
use crate::id::TunnelId;
use crate::stream::{InvalidTarget, Target};

/// The most labels or annotations of a tunnel, and the longest of their texts, in bytes.
const MAX_NOTES: usize = 64;
const MAX_TEXT: usize = 1024;

/// One tunnel: asked for by an agent, and answered with its port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// The cluster's id, or its name. The path says it too, and counts.
    #[serde(default)]
    pub cluster_uuid: String,
    #[serde(deserialize_with = "transport")]
    pub protocol: Transport,
    /// Unique in its cluster; the existing agent makes it of protocol, cluster, gateway and port.
    pub tunnel_id: TunnelId,
    /// The Gateway that it is for, and its listener's port. For people.
    #[serde(default)]
    pub gateway_name: String,
    #[serde(default)]
    pub gateway_namespace: String,
    #[serde(default)]
    pub gateway_port: u16,
    pub service_name: String,
    pub service_namespace: String,
    pub service_port: u16,
    #[serde(default)]
    pub routing_mode: RoutingMode,
    /// Where clients reach the Service without the control plane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_endpoint: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Each TCP connection to the Service begins with a PROXY protocol header of version 2, which names the client. Not in the
    /// published protocol.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub proxy_protocol: bool,
    /// From the control plane: its port. In a request, the port that is wished for; 0 is none.
    #[serde(default, deserialize_with = "port", skip_serializing_if = "Option::is_none")]
    pub tunnel_port: Option<u16>,
    /// From the control plane: `host:port` for clients. Ignored in a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel_endpoint: Option<String>,
    /// From the control plane: why the port is not open. Ignored in a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How clients come to the Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RoutingMode {
    /// Straight to the cluster: the control plane opens no port.
    Direct,
    /// Through the control plane and the link.
    #[default]
    Tunnel,
    /// Either way.
    Dual,
}

/// All tunnels of an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelSync {
    #[serde(default)]
    pub cluster_uuid: String,
    /// Go writes `null` for an empty list.
    #[serde(deserialize_with = "list")]
    pub tunnels: Vec<Tunnel>,
}

/// What became of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelSyncAnswer {
    pub accepted: Vec<Tunnel>,
    pub rejected: Vec<RejectedTunnel>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectedTunnel {
    /// As it came: it may be the reason.
    pub tunnel_id: String,
    /// For people.
    pub reason: String,
}

/// Why a tunnel cannot be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTunnel {
    #[error("its Service {service:?} in {namespace:?}, port {port}, is none")]
    Service {
        namespace: String,
        service: String,
        port: u16,
        #[source]
        source: InvalidTarget,
    },
    #[error("its {0} are more than {MAX_NOTES}, or one of them is longer than {MAX_TEXT} bytes")]
    Notes(&'static str),
    #[error("its {0} is longer than {MAX_TEXT} bytes")]
    Text(&'static str),
    #[error("the PROXY protocol names clients of TCP only")]
    ProxyProtocol,
}

impl Tunnel {
    /// One that says nothing but where it leads.
    pub fn new(tunnel_id: TunnelId, protocol: Transport, target: &Target) -> Self {
        Self {
            cluster_uuid: String::new(),
            protocol,
            tunnel_id,
            gateway_name: String::new(),
            gateway_namespace: String::new(),
            gateway_port: 0,
            service_name: target.service().to_owned(),
            service_namespace: target.namespace().to_owned(),
            service_port: target.port().get(),
            routing_mode: RoutingMode::Tunnel,
            public_endpoint: None,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            proxy_protocol: false,
            tunnel_port: None,
            tunnel_endpoint: None,
            error: None,
        }
    }

    /// Where it leads, after everything else of it was checked.
    ///
    /// # Errors
    /// For the first part that cannot be as it is.
    pub fn check(&self) -> Result<Target, InvalidTunnel> {
        for (what, notes) in [("labels", &self.labels), ("annotations", &self.annotations)] {
            let long = notes.iter().any(|(key, value)| key.len() > MAX_TEXT || value.len() > MAX_TEXT);
            if notes.len() > MAX_NOTES || long {
                return Err(InvalidTunnel::Notes(what));
            }
        }
        let endpoint = self.public_endpoint.as_deref().unwrap_or_default();
        let texts = [
            ("cluster_uuid", self.cluster_uuid.as_str()),
            ("gateway_name", self.gateway_name.as_str()),
            ("gateway_namespace", self.gateway_namespace.as_str()),
            ("public_endpoint", endpoint),
        ];
        if let Some((what, _)) = texts.into_iter().find(|(_, text)| text.len() > MAX_TEXT) {
            return Err(InvalidTunnel::Text(what));
        }
        if self.proxy_protocol && self.protocol != Transport::Tcp {
            return Err(InvalidTunnel::ProxyProtocol);
        }
        self.target().map_err(|source| InvalidTunnel::Service {
            namespace: shown(&self.service_namespace),
            service: shown(&self.service_name),
            port: self.service_port,
            source,
        })
    }

    /// Where it leads.
    ///
    /// # Errors
    /// When that cannot be a port of a Service.
    pub fn target(&self) -> Result<Target, InvalidTarget> {
        Target::new(&self.service_namespace, &self.service_name, self.service_port)
    }

    /// Whether the control plane opens a port for it.
    pub fn has_port(&self) -> bool {
        self.routing_mode != RoutingMode::Direct
    }
}

fn shown(text: &str) -> String {
    text.chars().take(Target::MAX_LABEL + 1).collect()
}

/// In any case of letters: Gateway API writes `TCP`.
fn transport<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Transport, D::Error> {
    let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
    match &*text.to_ascii_lowercase() {
        "tcp" => Ok(Transport::Tcp),
        "udp" => Ok(Transport::Udp),
        _ => Err(serde::de::Error::custom("protocol is neither tcp nor udp")),
    }
}

/// Go writes 0 for one that is not set.
fn port<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    Ok(Option::<u16>::deserialize(deserializer)?.filter(|port| *port > 0))
}

fn list<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Tunnel>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_existing_agent_writes_is_read() {
        let sync: TunnelSync = serde_json::from_str(
            r#"{"cluster_uuid":"u-1","tunnels":[{"cluster_uuid":"u-1","protocol":"TCP","tunnel_id":"tcp-u-1-gw-5432",
                "gateway_name":"gw","gateway_namespace":"infra","gateway_port":5432,"service_name":"postgres",
                "service_namespace":"shop","service_port":5432,"routing_mode":"tunnel","tunnel_port":0,
                "annotations":{}}]}"#,
        )
        .unwrap();
        let tunnel = &sync.tunnels[0];
        assert_eq!(tunnel.check().unwrap().to_string(), "shop/postgres:5432");
        assert_eq!((tunnel.protocol, tunnel.tunnel_port, tunnel.has_port()), (Transport::Tcp, None, true));
        let empty: TunnelSync = serde_json::from_str(r#"{"cluster_uuid":"u-1","tunnels":null}"#).unwrap();
        assert!(empty.tunnels.is_empty());
        assert!(serde_json::from_str::<TunnelSync>("{}").is_err(), "a set that is not sent is not an empty one");
    }

    #[test]
    fn what_leads_nowhere_is_refused_by_name() {
        let id = TunnelId::new("web").unwrap();
        let target: Target = "shop/web:80".parse().unwrap();
        let tunnel = Tunnel::new(id, Transport::Tcp, &target);
        assert_eq!(tunnel.check().as_ref(), Ok(&target));
        let elsewhere = Tunnel { service_name: "10.0.0.1".into(), ..tunnel.clone() };
        let error = elsewhere.check().unwrap_err();
        assert_eq!(error.to_string(), r#"its Service "10.0.0.1" in "shop", port 80, is none"#);
        let long = Tunnel { gateway_name: "a".repeat(MAX_TEXT + 1), ..tunnel.clone() };
        assert_eq!(long.check(), Err(InvalidTunnel::Text("gateway_name")));
        let udp = Tunnel { proxy_protocol: true, protocol: Transport::Udp, ..tunnel.clone() };
        assert_eq!(udp.check(), Err(InvalidTunnel::ProxyProtocol));
        let labels = (0..=MAX_NOTES).map(|n| (n.to_string(), String::new())).collect();
        assert_eq!(Tunnel { labels, ..tunnel }.check(), Err(InvalidTunnel::Notes("labels")));
        for id in ["", "a/b", "../a", "a:b", "a b"] {
            TunnelId::new(id).unwrap_err();
        }
    }
}
