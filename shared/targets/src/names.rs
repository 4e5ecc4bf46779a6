use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use protocol::Target;
use tokio::net::{TcpStream, UdpSocket, lookup_host};
use tokio::time::timeout;

const RESOLV_CONF: &str = "/etc/resolv.conf";
const DEFAULT_DOMAIN: &str = "cluster.local";

/// How a Service's name becomes addresses. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Names(Arc<Source>);

#[derive(Debug)]
enum Source {
    /// The cluster's DNS, under this domain.
    Dns(String),
    /// These and no others.
    Table(BTreeMap<String, SocketAddr>),
}

/// There is no connection to a Service.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    #[error("no address is known for {host}: check the Service's name and namespace")]
    Unknown { host: String, source: io::Error },
    #[error("cannot connect to {host}:{port}")]
    Connect { host: String, port: u16, source: io::Error },
    #[error("no connection to {host}:{port} within {} s", limit.as_secs_f32())]
    Timeout { host: String, port: u16, limit: Duration },
}

impl Names {
    /// By the cluster's DNS. Without a `domain`: the one that this pod searches, else `cluster.local`.
    #[must_use]
    pub fn dns(domain: Option<&str>) -> Self {
        let domain = domain.map(str::trim).filter(|domain| !domain.is_empty()).map(str::to_owned);
        let searched = || std::fs::read_to_string(RESOLV_CONF).ok().and_then(|text| search_domain(&text));
        Self(Arc::new(Source::Dns(domain.or_else(searched).unwrap_or_else(|| DEFAULT_DOMAIN.to_owned()))))
    }

    /// By a table of [`Target`]s as text: where there is no DNS, as in one process with its tests.
    #[must_use]
    pub fn table(addresses: impl IntoIterator<Item = (String, SocketAddr)>) -> Self {
        Self(Arc::new(Source::Table(addresses.into_iter().collect())))
    }

    /// The Service's full name.
    #[must_use]
    pub fn host(&self, target: &Target) -> String {
        let domain = match &*self.0 {
            Source::Dns(domain) => domain,
            Source::Table(_) => DEFAULT_DOMAIN,
        };
        format!("{}.{}.svc.{domain}", target.service(), target.namespace())
    }

    /// A TCP connection to the Service, the first that succeeds of its addresses.
    ///
    /// # Errors
    /// See [`Unreachable`].
    pub async fn connect(&self, target: &Target, limit: Duration) -> Result<TcpStream, Unreachable> {
        let dial = async {
            let addresses = self.resolve(target).await?;
            let tcp = TcpStream::connect(&*addresses).await.map_err(|source| self.failed(target, source))?;
            runtime::tcp::tune(&tcp).map_err(|source| self.failed(target, source))?;
            Ok(tcp)
        };
        timeout(limit, dial).await.unwrap_or_else(|_| Err(self.late(target, limit)))
    }

    /// A UDP socket that sends to the Service and takes from nobody else.
    ///
    /// # Errors
    /// See [`Unreachable`]; whether somebody listens there does not show.
    pub async fn connect_udp(&self, target: &Target, limit: Duration) -> Result<UdpSocket, Unreachable> {
        let open = async {
            let addresses = self.resolve(target).await?;
            let any = |address: &SocketAddr| if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let local = addresses.first().map_or("0.0.0.0:0", any);
            let socket = UdpSocket::bind(local).await.map_err(|source| self.failed(target, source))?;
            runtime::udp::widen(&socket);
            socket.connect(&*addresses).await.map_err(|source| self.failed(target, source))?;
            Ok(socket)
        };
        timeout(limit, open).await.unwrap_or_else(|_| Err(self.late(target, limit)))
    }

    async fn resolve(&self, target: &Target) -> Result<Vec<SocketAddr>, Unreachable> {
        let host = self.host(target);
        let found = match &*self.0 {
            // With the dot at its end it is asked for once, and not under each domain of the search list before.
            Source::Dns(_) => {
                lookup_host((format!("{host}."), target.port().get())).await.map(|found| found.collect::<Vec<_>>())
            }
            Source::Table(addresses) => Ok(addresses.get(&target.to_string()).copied().into_iter().collect()),
        };
        match found {
            Ok(addresses) if !addresses.is_empty() => Ok(addresses),
            Ok(_) => Err(Unreachable::Unknown { host, source: io::ErrorKind::NotFound.into() }),
            Err(source) => Err(Unreachable::Unknown { host, source }),
        }
    }

    fn failed(&self, target: &Target, source: io::Error) -> Unreachable {
        Unreachable::Connect { host: self.host(target), port: target.port().get(), source }
    }

    fn late(&self, target: &Target, limit: Duration) -> Unreachable {
        Unreachable::Timeout { host: self.host(target), port: target.port().get(), limit }
    }
}

/// The kubelet lets each pod search `<namespace>.svc.<domain>`, `svc.<domain>` and `<domain>`.
fn search_domain(text: &str) -> Option<String> {
    let lists = text.lines().filter_map(|line| line.trim().strip_prefix("search"));
    let mut names = lists.filter(|list| list.starts_with([' ', '\t'])).flat_map(str::split_whitespace);
    names.find_map(|name| name.strip_prefix("svc.")).map(|domain| domain.trim_end_matches('.').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_domain_is_what_the_kubelet_says() {
        let conf =
            "nameserver 10.96.0.10\nsearch shop.svc.corp.example svc.corp.example corp.example lan\noptions ndots:5";
        assert_eq!(search_domain(conf).as_deref(), Some("corp.example"));
        assert_eq!(search_domain("nameserver 1.1.1.1\nsearch lan\n"), None);
        assert_eq!(search_domain("searching svc.x\n"), None);
        let target: Target = "shop/web:80".parse().unwrap();
        assert_eq!(Names::dns(Some("corp.example")).host(&target), "web.shop.svc.corp.example");
        assert_eq!(Names::table([]).host(&target), "web.shop.svc.cluster.local");
    }

    #[tokio::test]
    async fn a_service_that_is_not_known_is_named_in_the_error() {
        let target: Target = "shop/web:80".parse().unwrap();
        let error = Names::table([]).connect(&target, Duration::from_secs(5)).await.unwrap_err();
        assert!(error.to_string().contains("web.shop.svc.cluster.local"), "{error}");
    }
}
