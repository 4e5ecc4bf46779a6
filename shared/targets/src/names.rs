mod lookups;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use protocol::Target;
use tokio::net::{TcpStream, UdpSocket, lookup_host};
use tokio::time::timeout;

use self::lookups::{Found, Lookups};

const RESOLV_CONF: &str = "/etc/resolv.conf";
const DEFAULT_DOMAIN: &str = "cluster.local";

/// Where targets are. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Names {
    /// Targets that are no Services: host and port.
    elsewhere: Arc<HashMap<Target, (String, u16)>>,
    services: Arc<Source>,
}

#[derive(Debug)]
enum Source {
    /// The cluster's DNS, under this domain.
    Dns(String, Lookups),
    /// These and no others.
    Table(BTreeMap<String, SocketAddr>),
}

/// Where a Service is.
#[derive(Debug)]
struct Resolved {
    addresses: Vec<SocketAddr>,
    /// What was found earlier, if it was.
    known: Option<Found>,
}

/// There is no connection to a Service.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    #[error("no address is known for {host}: check its name")]
    Unknown { host: String, source: Arc<io::Error> },
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
        let domain = domain.or_else(searched).unwrap_or_else(|| DEFAULT_DOMAIN.to_owned());
        Self { elsewhere: Arc::default(), services: Arc::new(Source::Dns(domain, Lookups::default())) }
    }

    /// By a table of [`Target`]s as text: where there is no DNS, as in one process with its tests.
    #[must_use]
    pub fn table(addresses: impl IntoIterator<Item = (String, SocketAddr)>) -> Self {
        Self { elsewhere: Arc::default(), services: Arc::new(Source::Table(addresses.into_iter().collect())) }
    }

    /// The same, but that these targets are no Services: each is a host, by name or address, and a port.
    #[must_use]
    pub fn elsewhere(self, places: impl IntoIterator<Item = (Target, (String, u16))>) -> Self {
        Self { elsewhere: Arc::new(places.into_iter().collect()), ..self }
    }

    /// The Service's full name; of what is elsewhere, its host.
    #[must_use]
    pub fn host(&self, target: &Target) -> String {
        if let Some((host, _)) = self.elsewhere.get(target) {
            return host.clone();
        }
        let domain = match &*self.services {
            Source::Dns(domain, _) => domain,
            Source::Table(_) => DEFAULT_DOMAIN,
        };
        format!("{}.{}.svc.{domain}", target.service(), target.namespace())
    }

    fn port(&self, target: &Target) -> u16 {
        self.elsewhere.get(target).map_or(target.port().get(), |(_, port)| *port)
    }

    /// A TCP connection to the Service, the first that succeeds of its addresses.
    ///
    /// # Errors
    /// See [`Unreachable`].
    pub async fn connect(&self, target: &Target, limit: Duration) -> Result<TcpStream, Unreachable> {
        let dial = async {
            let mut resolved = self.resolve(target).await?;
            let tcp = loop {
                match TcpStream::connect(&*resolved.addresses).await {
                    Ok(tcp) => break tcp,
                    Err(source) => {
                        let failed = self.failed(target, source);
                        let Some(known) = resolved.known else { return Err(failed) };
                        // The Service may have got another address since.
                        self.forget(target, &known);
                        let again = self.resolve(target).await?;
                        if again.addresses.iter().all(|address| resolved.addresses.contains(address)) {
                            return Err(failed);
                        }
                        resolved = again;
                    }
                }
            };
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
            let addresses = self.resolve(target).await?.addresses;
            let any = |address: &SocketAddr| if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let local = addresses.first().map_or("0.0.0.0:0", any);
            let socket = UdpSocket::bind(local).await.map_err(|source| self.failed(target, source))?;
            runtime::udp::widen(&socket);
            socket.connect(&*addresses).await.map_err(|source| self.failed(target, source))?;
            Ok(socket)
        };
        timeout(limit, open).await.unwrap_or_else(|_| Err(self.late(target, limit)))
    }

    async fn resolve(&self, target: &Target) -> Result<Resolved, Unreachable> {
        let host = self.host(target);
        let (addresses, known) = match (&*self.services, self.elsewhere.get(target)) {
            (Source::Table(addresses), None) => {
                let address = addresses.get(&target.to_string());
                (address.map(|address| vec![*address]).ok_or_else(|| Arc::new(io::ErrorKind::NotFound.into())), None)
            }
            (Source::Table(_), Some(_)) => (look_up(host.clone(), self.port(target)).await.map_err(Arc::new), None),
            (Source::Dns(_, lookups), elsewhere) => {
                // With the dot at its end a Service is asked for once, and not under each domain of the search list before.
                let name = if elsewhere.is_some() { host.clone() } else { format!("{host}.") };
                let look = async || Ok(look_up(name, 0).await?.iter().map(SocketAddr::ip).collect());
                let (found, known) = lookups.find(&host, look).await;
                (found.addresses.clone().map(|all| with_port(&all, self.port(target))), known.then_some(found))
            }
        };
        let addresses = addresses.map_err(|source| Unreachable::Unknown { host, source })?;
        Ok(Resolved { addresses, known })
    }

    fn forget(&self, target: &Target, found: &Found) {
        if let Source::Dns(_, lookups) = &*self.services {
            lookups.forget(&self.host(target), found);
        }
    }

    fn failed(&self, target: &Target, source: io::Error) -> Unreachable {
        Unreachable::Connect { host: self.host(target), port: self.port(target), source }
    }

    fn late(&self, target: &Target, limit: Duration) -> Unreachable {
        Unreachable::Timeout { host: self.host(target), port: self.port(target), limit }
    }
}

async fn look_up(host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok(lookup_host((host, port)).await?.collect())
}

/// A headless Service has an address for each of its pods: which one comes first is as good as the others.
fn with_port(addresses: &[IpAddr], port: u16) -> Vec<SocketAddr> {
    let mut all: Vec<_> = addresses.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
    if all.iter().all(SocketAddr::is_ipv4) || all.iter().all(SocketAddr::is_ipv6) {
        let first = rand::random_range(0..all.len().max(1));
        all.rotate_left(first);
    }
    all
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
    async fn what_is_elsewhere_is_reached_there() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (api, gone): (Target, Target) = ("forwards/api:1".parse().unwrap(), "forwards/gone:1".parse().unwrap());
        let places = [(api.clone(), ("localhost".to_owned(), port)), (gone.clone(), ("127.0.0.1".to_owned(), 1))];
        let limit = Duration::from_secs(20);
        for names in [Names::dns(None), Names::table([])].map(|names| names.elsewhere(places.clone())) {
            for _ in 0..2 {
                let (tcp, accepted) = tokio::join!(names.connect(&api, limit), listener.accept());
                assert_eq!(tcp.unwrap().local_addr().unwrap(), accepted.unwrap().1);
                let error = names.connect(&gone, limit).await.unwrap_err();
                assert_eq!(error.to_string(), "cannot connect to 127.0.0.1:1");
            }
        }
    }

    #[tokio::test]
    async fn a_service_that_is_not_known_is_named_in_the_error() {
        let target: Target = "shop/web:80".parse().unwrap();
        let error = Names::table([]).connect(&target, Duration::from_secs(5)).await.unwrap_err();
        assert!(error.to_string().contains("web.shop.svc.cluster.local"), "{error}");
    }
}
