use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;

use protocol::config::Transport;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UdpSocket};

use super::record::TunnelRecord;
use super::registry::Known;
use crate::options;

/// Ports from the first to the last, both included; written `15000-35000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// Why a text is not a range of ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no range of ports such as \"15000-35000\": two numbers from 1 to 65535, the first not above the last"
)]
pub struct InvalidRange(String);

impl PortRange {
    pub const fn new(first: u16, last: u16) -> Self {
        Self { first, last }
    }

    pub fn holds(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// All of them, from a place on that the name decides: a tunnel that is made again finds its old port where it can.
    fn at_place_of(self, name: &str) -> impl Iterator<Item = u16> {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let count = u64::from(self.last - self.first) + 1;
        let start = hasher.finish() % count;
        (0..count).filter_map(move |step| {
            let place = u16::try_from((start + step) % count).ok()?;
            self.first.checked_add(place)
        })
    }
}

impl FromStr for PortRange {
    type Err = InvalidRange;

    fn from_str(text: &str) -> Result<Self, InvalidRange> {
        let parse = || {
            let (first, last) = text.split_once('-')?;
            let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            (first > 0 && first <= last).then_some(Self { first, last })
        };
        parse().ok_or_else(|| InvalidRange(text.to_owned()))
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl TryFrom<String> for PortRange {
    type Error = InvalidRange;

    fn try_from(text: String) -> Result<Self, InvalidRange> {
        text.parse()
    }
}

impl From<PortRange> for String {
    fn from(range: PortRange) -> Self {
        range.to_string()
    }
}

/// A port that is open.
#[derive(Debug)]
pub struct Bound {
    pub bind: Bind,
    pub port: u16,
}

#[derive(Debug)]
pub enum Bind {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

/// Why a tunnel has no port.
#[derive(Debug, thiserror::Error)]
pub enum NoPort {
    #[error("port {port} is not among those for tunnels, {range} (gateway.ports)")]
    Outside { port: u16, range: PortRange },
    #[error("port {port} is that of the tunnel {owner:?}")]
    Taken { port: u16, owner: String },
    #[error("cannot listen on {address}")]
    Bind { address: SocketAddr, source: io::Error },
    #[error("none of the ports {0} is free (gateway.ports)")]
    Full(PortRange),
}

/// The ports that tunnels have, by protocol, and whose they are.
pub type Taken = HashMap<(Transport, u16), String>;

/// Those of all records.
pub fn taken(known: &Known) -> Taken {
    let has = |record: &TunnelRecord| {
        let port = record.tunnel.tunnel_port.filter(|_| record.tunnel.has_port())?;
        Some(((record.tunnel.protocol, port), record.name.clone()))
    };
    // Should two have the same, which only an edited folder says, the last by name has it.
    known.values().filter_map(|record| has(record)).collect()
}

/// Opens the port that the tunnel has or asks for, or one that is free.
pub async fn bind(options: &options::Gateway, record: &TunnelRecord, taken: &Taken) -> Result<Bound, NoPort> {
    let (range, protocol) = (options.ports, record.tunnel.protocol);
    let owner = |port| taken.get(&(protocol, port)).filter(|owner| **owner != record.name);
    if let Some(port) = record.asked_port.or(record.tunnel.tunnel_port) {
        if !range.holds(port) {
            return Err(NoPort::Outside { port, range });
        }
        if let Some(owner) = owner(port) {
            return Err(NoPort::Taken { port, owner: owner.clone() });
        }
        let address = SocketAddr::new(options.listen, port);
        let bind = listen(protocol, address).await.map_err(|source| NoPort::Bind { address, source })?;
        return Ok(Bound { bind, port });
    }
    for port in range.at_place_of(&record.name).filter(|port| owner(*port).is_none()) {
        let address = SocketAddr::new(options.listen, port);
        match listen(protocol, address).await {
            Ok(bind) => return Ok(Bound { bind, port }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(source) => return Err(NoPort::Bind { address, source }),
        }
    }
    Err(NoPort::Full(range))
}

async fn listen(protocol: Transport, address: SocketAddr) -> io::Result<Bind> {
    Ok(match protocol {
        Transport::Tcp => Bind::Tcp(TcpListener::bind(address).await?),
        Transport::Udp => {
            let socket = UdpSocket::bind(address).await?;
            runtime::udp::widen(&socket);
            Bind::Udp(socket)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_what_it_says() {
        let range: PortRange = "15000-15002".parse().unwrap();
        assert_eq!(range.to_string(), "15000-15002");
        assert!(range.holds(15000) && range.holds(15002) && !range.holds(14999) && !range.holds(15003));
        for wrong in ["", "1", "0-5", "5-4", "1-65536", "a-b", "1-2-3"] {
            wrong.parse::<PortRange>().unwrap_err();
        }
        let mut all: Vec<_> = range.at_place_of("web").collect();
        assert_eq!(all, range.at_place_of("web").collect::<Vec<_>>(), "the same name finds the same");
        all.sort_unstable();
        assert_eq!(all, [15000, 15001, 15002]);
        assert_eq!("1-65535".parse::<PortRange>().unwrap().at_place_of("x").count(), 65535);
    }
}
