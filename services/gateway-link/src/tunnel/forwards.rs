//! Ports of the control plane that the cluster's owner wants for what gateway-link reaches itself: `tunnel.forwards`.
//!
//! To the control plane each is a tunnel to a Service of a namespace that no cluster has, so that it needs no words of its own
//! on the link.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bus::routes::CallError;
use protocol::{StreamKind, Target, Tunnel, TunnelId};
use runtime::Backoff;
use tokio::time::timeout;

use crate::calls::Calls;
use crate::options;

/// Where forwards lie among Services.
const NAMESPACE: &str = "pipeops-forwards";
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// Why a forward of the settings cannot be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidForward {
    #[error("tunnel.forwards: the name {0:?} is no DNS label (1 to 63 of a-z, 0-9 and '-', not at either end)")]
    Name(String),
    #[error("tunnel.forwards: two are called {0:?}")]
    Twice(String),
    #[error("tunnel.forwards: the local_addr {addr:?} of {name:?} is not host:port")]
    Address { name: String, addr: String },
}

#[derive(Clone, Debug)]
struct Forward {
    tunnel: Tunnel,
    kind: StreamKind,
    place: (String, u16),
}

/// Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Forwards {
    all: Arc<HashMap<Target, Forward>>,
    idle_timeout: Duration,
}

impl Forwards {
    pub fn new(options: &options::Tunnel) -> Result<Self, InvalidForward> {
        let mut all = HashMap::new();
        for forward in options.forwards.iter().filter(|_| options.enabled) {
            let name = &forward.name;
            let no_name = || InvalidForward::Name(name.clone());
            let place = split(&forward.local_addr)
                .ok_or_else(|| InvalidForward::Address { name: name.clone(), addr: forward.local_addr.clone() })?;
            let target = Target::new(NAMESPACE, name, place.1).map_err(|_| no_name())?;
            let id = TunnelId::new(format!("forward-{name}")).map_err(|_| no_name())?;
            let kind = StreamKind::from(forward.protocol);
            let tunnel = Tunnel { tunnel_port: forward.remote_port, ..Tunnel::new(id, forward.protocol, &target) };
            if all.keys().any(|other: &Target| other.service() == name) {
                return Err(InvalidForward::Twice(name.clone()));
            }
            all.insert(target, Forward { tunnel, kind, place });
        }
        Ok(Self { all: Arc::new(all), idle_timeout: options.inactivity_timeout.get() })
    }

    /// Where each of them leads.
    pub fn places(&self) -> impl Iterator<Item = (Target, (String, u16))> {
        self.all.iter().map(|(target, forward)| (target.clone(), forward.place.clone()))
    }

    /// Of what kind the forward's connections are, and after how long without anything they end, 0 for never; none if it
    /// is no forward.
    pub fn of(&self, target: &Target) -> Option<(StreamKind, Duration)> {
        self.all.get(target).map(|forward| (forward.kind, self.idle_timeout))
    }

    /// As the control plane is to have them.
    pub fn tunnels(&self) -> impl Iterator<Item = &Tunnel> {
        self.all.values().map(|forward| &forward.tunnel)
    }

    /// Makes the control plane have them, and none that was one of them before, whenever there is a new link. Never returns.
    /// Without any it asks nothing of a control plane that may have none.
    pub async fn keep(self, calls: Arc<Calls>) {
        if self.all.is_empty() {
            return std::future::pending().await;
        }
        let mut state = calls.state();
        let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
        let mut told = 0;
        loop {
            let Ok(links) = state.wait_for(|now| now.up.is_some() && now.links != told).await.map(|now| now.links)
            else {
                return std::future::pending().await;
            };
            if self.register(&calls).await {
                told = links;
                backoff.reset();
            } else {
                let _new_link = timeout(backoff.wait(), state.wait_for(|now| now.links != links)).await;
            }
        }
    }

    async fn register(&self, calls: &Calls) -> bool {
        let mut registered = true;
        for Forward { tunnel, place: (host, port), .. } in self.all.values() {
            let id = &tunnel.tunnel_id;
            match calls.register_tunnel(tunnel).await {
                Ok(tunnel) => {
                    let at = tunnel.tunnel_endpoint.unwrap_or_default();
                    tracing::info!(tunnel = %id, at, "the control plane has a port for {host}:{port}");
                }
                Err(error) => {
                    registered = false;
                    tracing::warn!(tunnel = %id, %error, "the control plane has no port for {host}:{port}");
                }
            }
        }
        registered && self.remove_others(calls).await
    }

    /// Those that earlier settings had.
    async fn remove_others(&self, calls: &Calls) -> bool {
        let tunnels = match calls.tunnels().await {
            Ok(tunnels) => tunnels,
            // One that has no tunnels has none of ours.
            Err(CallError::Refused { status: 404, .. }) => return true,
            Err(error) => {
                tracing::warn!(%error, "the control plane does not say which tunnels it has");
                return false;
            }
        };
        let is_own = |id: &TunnelId| self.tunnels().any(|tunnel| tunnel.tunnel_id == *id);
        let mut removed = true;
        for Tunnel { tunnel_id: id, service_namespace, .. } in tunnels {
            if service_namespace != NAMESPACE || is_own(&id) {
                continue;
            }
            match calls.unregister_tunnel(&id).await {
                Ok(()) => tracing::info!(tunnel = %id, "the settings have this forward no more: its port is closed"),
                // Whoever runs the control plane has made it.
                Err(CallError::Refused { status: 403, .. }) => {}
                Err(error) => {
                    removed = false;
                    tracing::warn!(tunnel = %id, %error, "cannot close the port of a forward that the settings have no more");
                }
            }
        }
        removed
    }
}

/// `host:port`; an IPv6 address in brackets.
fn split(address: &str) -> Option<(String, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port > 0)?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = bare.or_else(|| (!host.contains(':')).then_some(host)).filter(|host| !host.is_empty())?;
    Some((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use protocol::config::Transport;

    use super::*;

    fn forward(name: &str, local_addr: &str) -> options::Forward {
        options::Forward {
            name: name.to_owned(),
            local_addr: local_addr.to_owned(),
            remote_port: None,
            protocol: Transport::Tcp,
        }
    }

    fn forwards(forwards: &[options::Forward]) -> Result<Forwards, InvalidForward> {
        Forwards::new(&options::Tunnel { forwards: forwards.to_vec(), ..options::Tunnel::default() })
    }

    #[test]
    fn each_is_a_tunnel_that_leads_to_its_address() {
        let web = options::Forward { remote_port: Some(15_001), ..forward("web", "localhost:8080") };
        let made = forwards(&[web, forward("db", "[::1]:5432")]).unwrap();
        let mut places = made.places().map(|(target, place)| (target.to_string(), place)).collect::<Vec<_>>();
        places.sort();
        let place = |host: &str, port| (host.to_owned(), port);
        assert_eq!(
            places,
            [
                ("pipeops-forwards/db:5432".to_owned(), place("::1", 5432)),
                ("pipeops-forwards/web:8080".to_owned(), place("localhost", 8080))
            ]
        );
        let target: Target = "pipeops-forwards/web:8080".parse().unwrap();
        assert_eq!(made.of(&target), Some((StreamKind::Tcp, Duration::ZERO)));
        let asked = made.tunnels().find(|tunnel| tunnel.tunnel_id.as_str() == "forward-web").unwrap();
        assert_eq!((asked.tunnel_port, asked.check().unwrap()), (Some(15_001), target));
    }

    #[test]
    fn what_cannot_be_a_forward_is_refused_by_name() {
        for addr in ["", "localhost", "localhost:", "localhost:0", ":80", "::1:80", "localhost:65536"] {
            let refused = InvalidForward::Address { name: "web".to_owned(), addr: addr.to_owned() };
            assert_eq!(forwards(&[forward("web", addr)]).unwrap_err(), refused);
        }
        let refused = forwards(&[forward("We b", "localhost:1")]).unwrap_err();
        assert_eq!(refused, InvalidForward::Name("We b".to_owned()));
        let twice = [forward("web", "localhost:1"), forward("web", "localhost:2")];
        assert_eq!(forwards(&twice).unwrap_err(), InvalidForward::Twice("web".to_owned()));
        let off = options::Tunnel { enabled: false, forwards: twice.to_vec(), ..options::Tunnel::default() };
        assert_eq!(Forwards::new(&off).unwrap().tunnels().count(), 0);
    }
}
