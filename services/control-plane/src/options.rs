use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use runtime::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::gateway::PortRange;
use crate::web::Network;

/// Settings of the control plane.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Options {
    #[serde(flatten)]
    pub common: runtime::Common,
    /// Address that users and agents connect to.
    #[schemars(with = "String")]
    pub listen: SocketAddr,
    /// Folder for tokens, clusters and the generated certificate. Has to outlive the process.
    pub data_dir: PathBuf,
    pub tls: Tls,
    pub links: Links,
    pub tokens: Tokens,
    pub gateway: Gateway,
    /// Connections of users and agents that may be open at once; more wait to be accepted. As many may be open to each of
    /// the gateway's listeners for web apps.
    pub max_connections: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            common: runtime::Common::default(),
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8443)),
            data_dir: PathBuf::from("/var/lib/pipeops-control-plane"),
            tls: Tls::default(),
            links: Links::default(),
            tokens: Tokens::default(),
            gateway: Gateway::default(),
            max_connections: 16_384,
        }
    }
}

impl runtime::Options for Options {
    const ENV: &'static [(&'static str, &'static str)] = &[];

    fn common(&self) -> &runtime::Common {
        &self.common
    }
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Tls {
    /// False serves plain HTTP: only behind a load balancer that ends TLS.
    pub enabled: bool,
    /// PEM file of the certificate chain, read again when it changes. Unset: a certificate is generated in `data_dir`,
    /// signed by `tls/ca.crt` there.
    pub cert_file: Option<PathBuf>,
    /// PEM file of the certificate's key, read again when it changes.
    pub key_file: Option<PathBuf>,
    /// PEM file of the authorities that sign agents' certificates, read again when it changes. Set: an agent needs a
    /// certificate besides its token. Users come without.
    pub client_ca_file: Option<PathBuf>,
    /// Names and addresses in the generated certificate, beside localhost and the host's own name. Others than before: it
    /// is signed anew at the next start, by the same CA.
    pub names: Vec<String>,
}

impl Default for Tls {
    fn default() -> Self {
        Self { enabled: true, cert_file: None, key_file: None, client_ca_file: None, names: Vec::new() }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Tokens {
    /// How long the token that an agent is given over its link is good for. It is renewed when half of that is over. An
    /// agent that is away for longer has to be given a new token by hand.
    pub agent_lifetime: Duration,
}

impl Default for Tokens {
    fn default() -> Self {
        Self { agent_lifetime: Duration::from_secs(7 * 24 * 3600) }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Gateway {
    /// Address on which the ports of tunnels are opened.
    #[schemars(with = "String")]
    pub listen: IpAddr,
    /// Ports for tunnels to Services, from the first to the last. A tunnel keeps its port for as long as it exists.
    #[schemars(with = "String")]
    pub ports: PortRange,
    /// Name or address under which clients reach these ports; agents and users are told it. Unset: the one under which
    /// they reach the control plane.
    pub host: Option<String>,
    /// Tunnels that one cluster may have.
    pub max_tunnels: usize,
    /// Clients that all tunnels of one cluster may have at once: TCP connections and UDP sessions. To be below
    /// `links.max_streams`, of which they take one each, so that requests find room beside them.
    pub max_clients: usize,
    /// Clients that all tunnels of all clusters may have at once.
    pub max_clients_total: usize,
    /// TCP connections that may be open through one tunnel at once. More are reset.
    pub max_connections: usize,
    /// UDP sessions, one for each client's address and port, that one tunnel may have at once. Datagrams of more clients
    /// are dropped.
    pub max_sessions: usize,
    /// A UDP session is over after this long without a datagram; 0: when the cluster's agent ends it.
    pub udp_idle_timeout: Duration,
    /// Address on which web apps are served over HTTP. Unset: they are not.
    #[schemars(with = "Option<String>")]
    pub http_listen: Option<SocketAddr>,
    /// Address on which web apps are served over HTTPS. Unset: they are not.
    #[schemars(with = "Option<String>")]
    pub https_listen: Option<SocketAddr>,
    /// Port by which clients reach `http_listen`, in the URLs that agents are told. Unset: that of the address.
    pub http_port: Option<u16>,
    /// Port by which clients reach `https_listen`, in these URLs and in redirects. Unset: that of the address.
    pub https_port: Option<u16>,
    /// Folder of the web apps' certificates: for each hostname a PEM file `<hostname>.crt` with the chain and `<hostname>.key`
    /// with its key, `_.example.com` for `*.example.com`; read again when they change. A hostname that is registered and
    /// has none there gets one that is generated, signed by `tls/ca.crt` of `data_dir`.
    pub cert_dir: Option<PathBuf>,
    /// How long a cluster's routes are good for after its agent has sent them, which route-syncer does every four hours. 0: until
    /// it says otherwise.
    pub route_ttl: Duration,
    /// Routes that one cluster may have.
    pub max_routes: usize,
    /// Tell visitors of web apps why one gives no answer, in the agent's words, which name the Service. The log has them
    /// in any case.
    pub explain_errors: bool,
    /// Requests of visitors that may be under way at once in one cluster, WebSockets and events included. More are refused
    /// with 429. Well below `links.max_streams`, so that users find room. 0: without limit.
    pub max_requests: usize,
    /// Addresses and networks, such as 10.0.0.0/8, of load balancers in front: what they say of a client in
    /// `X-Forwarded-*` and `Forwarded` is passed on. From others it is replaced.
    #[schemars(with = "Vec<String>")]
    pub trusted_proxies: Vec<Network>,
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            listen: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            ports: PortRange::new(15_000, 35_000),
            host: None,
            max_tunnels: 256,
            max_clients: 3072,
            max_clients_total: 16_384,
            max_connections: 2048,
            max_sessions: 2048,
            udp_idle_timeout: Duration::from_secs(60),
            http_listen: None,
            https_listen: None,
            http_port: None,
            https_port: None,
            cert_dir: None,
            route_ttl: Duration::from_secs(24 * 3600),
            max_routes: 5000,
            explain_errors: false,
            max_requests: 2048,
            trusted_proxies: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Links {
    /// Interval of the pings that show whether an agent is still there.
    pub ping_interval: Duration,
    /// Without any sign of life for this long a link is given up.
    pub dead_after: Duration,
    /// Streams that may be open on one link at once, or requests that go over it as messages.
    pub max_streams: usize,
    /// The most bytes that fast streams of one link together may have waiting beyond 256 KiB each. They get no more than
    /// that when this is 0, which limits one stream to 256 KiB for each round trip; one gets at most half of it.
    pub window_total: usize,
    /// The most bytes that responses may have waiting in memory for clients to read them, over all links together. Above
    /// it those that were not read for longest and hold most are cut.
    pub unread_total: usize,
    /// Largest message accepted from an agent, in bytes.
    pub max_message: usize,
    /// Compress text messages from 256 bytes on for agents that ask for it (their `pipeops.compression`). An idle link costs
    /// no more for it.
    pub compression: bool,
    /// Idle streams kept per link for the next request.
    pub max_idle_streams: usize,
    /// Requests for one cluster in a second, in the long run, over all its links and users. More are refused with 429. 0:
    /// without limit.
    pub requests_per_second: u32,
    /// Requests for one cluster that may come at once before `requests_per_second` counts.
    pub requests_burst: u32,
    /// Requests for one cluster that may be under way at once, watches and sessions included. More are refused with 429.
    /// 0: without limit.
    pub max_requests: usize,
    /// The most bytes of one answer that may wait in memory for its client to read it, where the agent speaks only the
    /// older protocol and cannot be made to wait. Above it that answer is cut.
    pub message_unread: usize,
    /// The most bytes of all such answers together. One that wants more than is left for others is cut.
    pub message_unread_total: usize,
    /// The most bytes that an answer may have which such an agent has packed and sent as a whole.
    pub max_unpacked: usize,
}

impl Default for Links {
    fn default() -> Self {
        Self {
            ping_interval: Duration::from_secs(10),
            dead_after: Duration::from_secs(20),
            max_streams: 4096,
            window_total: 64 << 20,
            unread_total: 128 << 20,
            max_message: 4 << 20,
            compression: true,
            max_idle_streams: 256,
            requests_per_second: 5000,
            requests_burst: 10_000,
            max_requests: 8192,
            message_unread: 4 << 20,
            message_unread_total: 64 << 20,
            max_unpacked: 64 << 20,
        }
    }
}
