use std::collections::BTreeMap;
use std::path::PathBuf;

use protocol::Secret;
use protocol::config::Transport;
use runtime::Duration;
use runtime::tls::Pin;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of the gateway-link.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Options {
    #[serde(flatten)]
    pub common: runtime::Common,
    /// The bus that streams are passed on to.
    pub bus: bus::Options,
    /// The control plane.
    pub pipeops: PipeOps,
    /// What one link may carry and hold.
    pub link: Link,
    /// Requests that come as messages, from a control plane that opens no streams for them.
    pub proxied: Proxied,
    /// TCP and UDP connections of the control plane to Services.
    pub tunnels: Tunnels,
    /// Ports of the control plane for what this process reaches itself.
    pub tunnel: Tunnel,
    /// What this cluster calls itself.
    pub agent: Agent,
}

impl runtime::Options for Options {
    const ENV: &'static [(&'static str, &'static str)] = &[
        ("PIPEOPS_API_URL", "pipeops.api_url"),
        ("PIPEOPS_TOKEN", "pipeops.token"),
        ("PIPEOPS_TOKEN_FILE", "pipeops.token_file"),
        ("PIPEOPS_TLS_CA_FILE", "pipeops.tls.ca_file"),
        ("PIPEOPS_TLS_CERT_FILE", "pipeops.tls.cert_file"),
        ("PIPEOPS_TLS_KEY_FILE", "pipeops.tls.key_file"),
        ("PIPEOPS_TLS_PINS", "pipeops.tls.pins"),
        ("PIPEOPS_TLS_INSECURE_SKIP_VERIFY", "pipeops.tls.insecure_skip_verify"),
        ("PIPEOPS_COMPRESSION", "pipeops.compression"),
        ("https_proxy", "pipeops.https_proxy"),
        ("HTTPS_PROXY", "pipeops.https_proxy"),
        ("PIPEOPS_HTTPS_PROXY", "pipeops.https_proxy"),
        ("http_proxy", "pipeops.http_proxy"),
        ("HTTP_PROXY", "pipeops.http_proxy"),
        ("PIPEOPS_HTTP_PROXY", "pipeops.http_proxy"),
        ("no_proxy", "pipeops.no_proxy"),
        ("NO_PROXY", "pipeops.no_proxy"),
        ("PIPEOPS_NO_PROXY", "pipeops.no_proxy"),
        ("PIPEOPS_CLUSTER_NAME", "agent.cluster_name"),
        ("PIPEOPS_HEARTBEAT_INTERVAL_CONNECTED", "agent.heartbeat_interval_connected"),
        ("PIPEOPS_HEARTBEAT_INTERVAL_RECONNECTING", "agent.heartbeat_interval_reconnecting"),
        ("PIPEOPS_HEARTBEAT_INTERVAL_DISCONNECTED", "agent.heartbeat_interval_disconnected"),
    ];

    fn common(&self) -> &runtime::Common {
        &self.common
    }
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PipeOps {
    /// Address of the control plane, such as "https://api.pipeops.io".
    pub api_url: String,
    /// The agent's bearer token. Better given as a file.
    #[schemars(with = "Option<runtime::SecretSchema>")]
    pub token: Option<Secret>,
    /// File that holds the agent's bearer token; read at each connection, so that it can be replaced.
    pub token_file: Option<PathBuf>,
    pub tls: Tls,
    /// Proxy that connects to an `https://` control plane by CONNECT: "http://USER:PASSWORD@HOST:PORT", or `https://` for
    /// one that speaks TLS itself. It is given the control plane's name and sees only TLS.
    #[schemars(with = "Option<runtime::SecretSchema>")]
    pub https_proxy: Option<Secret>,
    /// The same for an `http://` control plane.
    #[schemars(with = "Option<runtime::SecretSchema>")]
    pub http_proxy: Option<Secret>,
    /// Whom to connect to without the proxy, separated by commas: names, which stand for their subdomains too, addresses,
    /// networks such as "10.0.0.0/8", any of them with ":PORT"; "*" is everybody.
    pub no_proxy: String,
    pub reconnect: Reconnect,
    /// How long dialling and registering may take, each.
    pub timeout: Duration,
    /// Interval of the pings that show whether the control plane is still there.
    pub ping_interval: Duration,
    /// Without any sign of life for this long the link is given up.
    pub dead_after: Duration,
    /// Compress text messages from 256 bytes on, if the control plane does too. It pays on a slow way, with a control plane
    /// of the published protocol, whose messages carry what users send; with others text is a kilobyte each half minute.
    /// What is compressed tells of itself by its length.
    pub compression: bool,
}

impl Default for PipeOps {
    fn default() -> Self {
        Self {
            api_url: "https://api.pipeops.io".to_owned(),
            token: None,
            token_file: None,
            tls: Tls::default(),
            https_proxy: None,
            http_proxy: None,
            no_proxy: String::new(),
            reconnect: Reconnect::default(),
            timeout: Duration::from_secs(30),
            ping_interval: Duration::from_secs(10),
            dead_after: Duration::from_secs(20),
            compression: false,
        }
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Tls {
    /// PEM file of further authorities to trust, beside those of the system. This and the other files are read for each
    /// new connection; while one cannot be used, that is reported and what was read last is kept.
    pub ca_file: Option<PathBuf>,
    /// PEM file of a certificate to show to a control plane that asks for one, with its chain.
    pub cert_file: Option<PathBuf>,
    /// PEM file of that certificate's key.
    pub key_file: Option<PathBuf>,
    /// Keys of which one has to be in the verified chain, besides all else that is verified: that of the control plane's own
    /// certificate, of an authority between, or of the trusted one. Each is "sha256/" and the base64 of the SHA-256 of the
    /// SubjectPublicKeyInfo; several allow for a rotation. Empty: any.
    pub pins: Vec<Pin>,
    /// Accept any certificate. Whoever is on the way can then read and change everything. Of `pins`, only the control plane's
    /// own key counts then.
    pub insecure_skip_verify: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Reconnect {
    /// Wait before the first new attempt; doubles with each, and varies by a quarter either way.
    pub initial: Duration,
    /// The longest wait, before it is varied.
    pub max: Duration,
}

impl Default for Reconnect {
    fn default() -> Self {
        Self { initial: Duration::from_secs(1), max: Duration::from_secs(15) }
    }
}

/// What the control plane sends and a stream has not passed on waits in memory: 256 KiB for each stream at most,
/// `window_total` more for fast ones, and `unread_total` for all of them together.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Link {
    /// The largest message accepted from the control plane, in bytes. A larger one ends the link.
    pub max_message: usize,
    /// The most streams open at once on a link; one more is reset. Up to 65536.
    pub max_streams: usize,
    /// The most bytes that fast streams together may have waiting beyond 256 KiB each. They get no more than that when
    /// this is 0, which limits one stream to 256 KiB for each round trip; one gets at most half of it.
    pub window_total: usize,
    /// The most bytes that all streams together may have waiting. Above it those that were not passed on for longest and
    /// hold most are reset.
    pub unread_total: usize,
}

impl Default for Link {
    fn default() -> Self {
        Self { max_message: 4 << 20, max_streams: 4096, window_total: 32 << 20, unread_total: 32 << 20 }
    }
}

/// Messages have no flow control: what a backend does not take in time waits in memory, within these limits, and above
/// them the exchange ends with an error.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Proxied {
    /// The most requests, WebSockets and TCP tunnels under way at once on a link.
    pub max_exchanges: usize,
    /// The most bytes that may wait for one of them.
    pub waiting: usize,
    /// The most bytes that may wait for all of them together, with the answers that are being gathered.
    pub waiting_total: usize,
    /// The largest answer, in bytes, to a control plane that takes answers only whole.
    pub max_response: usize,
    /// How long the beginning of an answer may take where the control plane does not say; what follows has no limit.
    pub answer_timeout: Duration,
}

impl Default for Proxied {
    fn default() -> Self {
        Self {
            max_exchanges: 1024,
            waiting: 8 << 20,
            waiting_total: 64 << 20,
            max_response: 32 << 20,
            answer_timeout: Duration::from_secs(120),
        }
    }
}

/// Tunnels go straight from here to Services, by their DNS names.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Tunnels {
    /// False: none is opened.
    pub enabled: bool,
    #[serde(flatten)]
    pub access: targets::Access,
    /// The cluster's domain, under which Services have their names. Unset: the one that this pod searches by its
    /// /etc/resolv.conf, else "cluster.local".
    pub cluster_domain: Option<String>,
    pub tcp: TcpTunnels,
    pub udp: UdpTunnels,
}

impl Default for Tunnels {
    fn default() -> Self {
        Self {
            enabled: true,
            access: targets::Access::default(),
            cluster_domain: None,
            tcp: TcpTunnels::default(),
            udp: UdpTunnels::default(),
        }
    }
}

/// Each forward is a tunnel that leads to an address instead of a Service; `tunnels.allow` and `deny` do not concern it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Tunnel {
    /// False: there are none.
    pub enabled: bool,
    /// A connection on which nothing has moved for this long is ended; 0: never.
    pub inactivity_timeout: Duration,
    pub forwards: Vec<Forward>,
}

impl Default for Tunnel {
    fn default() -> Self {
        Self { enabled: true, inactivity_timeout: Duration::from_secs(0), forwards: Vec::new() }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Forward {
    /// Of letters a-z, digits and '-'; no two are alike.
    pub name: String,
    /// Where it leads: host:port, as seen from this process.
    pub local_addr: String,
    /// The port of the control plane that is wished for. Unset: any that is free.
    #[serde(default)]
    pub remote_port: Option<u16>,
    /// tcp or udp.
    #[serde(default = "tcp")]
    #[schemars(with = "String")]
    pub protocol: Transport,
}

fn tcp() -> Transport {
    Transport::Tcp
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TcpTunnels {
    /// How long a connection to a Service may take to come about.
    pub connection_timeout: Duration,
    /// A connection on which nothing has moved for this long is ended; 0: never.
    pub idle_timeout: Duration,
    /// The most connections at once.
    pub max_connections: usize,
}

impl Default for TcpTunnels {
    fn default() -> Self {
        Self {
            connection_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(0),
            max_connections: 1000,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct UdpTunnels {
    /// A session in which nothing was sent or received for this long is ended; 0: never.
    pub session_timeout: Duration,
    /// The most sessions at once.
    pub max_sessions: usize,
    /// Bytes of datagrams of one session that may wait in each direction; above it the oldest is dropped.
    pub buffer_size: usize,
}

impl Default for UdpTunnels {
    fn default() -> Self {
        Self { session_timeout: Duration::from_secs(300), max_sessions: 1000, buffer_size: 64 * 1024 }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Agent {
    /// Name shown for this cluster.
    pub cluster_name: String,
    /// Labels sent with the registration.
    pub labels: BTreeMap<String, String>,
    /// Interval of heartbeats while the link is up, unless the control plane wishes for another.
    pub heartbeat_interval_connected: Duration,
    /// The same while a link that was lost is made anew: they are counted, as nobody is there to take them.
    pub heartbeat_interval_reconnecting: Duration,
    /// The same while the control plane refuses this agent.
    pub heartbeat_interval_disconnected: Duration,
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            cluster_name: "default-cluster".to_owned(),
            labels: BTreeMap::new(),
            heartbeat_interval_connected: Duration::from_secs(30),
            heartbeat_interval_reconnecting: Duration::from_secs(60),
            heartbeat_interval_disconnected: Duration::from_secs(15),
        }
    }
}
