//! One agent: what a gateway-link does on its link, with no cluster behind it.

use super::{backoff::Backoff, fleet::Seen};
use crate::link::load;
use anyhow::{Context, Result, bail};
use mux::{Incoming, Link, MuxStream, Role, Timed, Windows};
use protocol::{
    AgentId, AgentMessage, ClusterId, ConfigAck, ControlMessage, Secret, StreamAnswer, StreamHeader, capability,
    endpoint,
    message::{GatewayHelloAck, Heartbeat, HeartbeatMetadata, Pong, Register},
};
use rustls::{ClientConfig, RootCertStore, client::Resumption};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{client::IntoClientRequest, http::header},
};

/// As `pipeops.timeout` of gateway-link: for the connection, and for the registration.
const TIMEOUT: Duration = Duration::from_secs(30);
/// A link that was up for this long was a good one.
const STABLE: Duration = Duration::from_secs(10);

/// The control plane as agents reach it.
pub(super) struct Far {
    address: String,
    name: ServerName<'static>,
    tls: TlsConnector,
    heartbeat: Duration,
}

impl Far {
    pub(super) fn new(url: &str, ca_pem: &str, heartbeat: Duration) -> Result<Self> {
        let address = url.strip_prefix("https://").with_context(|| format!("{url} has no TLS"))?.to_owned();
        let host = address.split(':').next().unwrap_or_default().to_owned();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).context("the control plane's CA")?)?;
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        // An agent that comes anew has nothing of the last session either.
        config.resumption = Resumption::disabled();
        Ok(Self { name: ServerName::try_from(host)?, tls: TlsConnector::from(Arc::new(config)), address, heartbeat })
    }
}

/// As gateway-link with a Service behind it.
async fn serve_stream(mut stream: MuxStream) -> Result<()> {
    let mut header = Vec::new();
    while StreamHeader::decode(&header)?.is_none() {
        header.push(stream.read_u8().await?);
    }
    stream.write_all(&StreamAnswer::Connected.encode()).await?;
    load::serve(stream, &AtomicU64::new(0)).await
}

pub(super) struct Agent {
    pub(super) far: Arc<Far>,
    pub(super) seen: Arc<Seen>,
    /// Its place in what all have seen.
    pub(super) number: usize,
    pub(super) id: AgentId,
    /// The cluster's name.
    pub(super) cluster: String,
    /// What it shows: the one it was made with, later the one that it was given last.
    pub(super) token: Secret,
    pub(super) cluster_id: Option<ClusterId>,
}

impl Agent {
    /// Keeps a link up for ever.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new();
        loop {
            let mut up = None;
            let Err(error) = self.link(&mut up).await;
            self.seen.failed(up.map(|(round, _)| round), &error);
            if up.is_some_and(|(_, since): (_, Instant)| since.elapsed() >= STABLE) {
                backoff.reset();
            }
            sleep(backoff.next()).await;
        }
    }

    /// A link from its first byte to its end. `up` says since when, and in which round, it is registered.
    async fn link(&mut self, up: &mut Option<(u64, Instant)>) -> Result<std::convert::Infallible> {
        let config = mux::Config::default();
        let socket = timeout(TIMEOUT, self.dial(&config)).await.context("no connection in time")??;
        let (link, incoming, driver) = mux::start(socket, Role::Agent, config);
        tokio::select! {
            closed = driver => bail!("the link ended: {closed:?}"),
            ended = self.serve(&link, incoming, up) => ended,
        }
    }

    async fn dial(&self, config: &mux::Config) -> Result<WebSocketStream<Timed<TlsStream<TcpStream>>>> {
        let far = &self.far;
        let tcp = TcpStream::connect(&far.address).await.context("TCP")?;
        tcp.set_nodelay(true)?;
        let tls = far.tls.connect(far.name.clone(), tcp).await.context("TLS")?;
        let mut request = format!("wss://{}{}", far.address, endpoint::AGENT_WS).into_client_request()?;
        let token = format!("Bearer {}", self.token.expose()).parse()?;
        request.headers_mut().insert(header::AUTHORIZATION, token);
        let opened = client_async_with_config(request, Timed::new(tls), Some(config.websocket())).await;
        Ok(opened.context("WebSocket")?.0)
    }

    async fn serve(
        &mut self,
        link: &Link,
        mut incoming: Incoming,
        up: &mut Option<(u64, Instant)>,
    ) -> Result<std::convert::Infallible> {
        let say = async |message: AgentMessage| link.send(message.encode(None)).await;
        let mut register = Register::new(self.id.clone(), self.cluster.clone());
        register.cluster_id = self.cluster_id.clone();
        register.capabilities = capability::all();
        say(AgentMessage::Register(Box::new(register))).await?;
        // Until it is registered, the end of the wait for that.
        let mut due = Instant::now() + TIMEOUT;
        let mut serving = JoinSet::new();
        loop {
            let frame = tokio::select! {
                frame = incoming.control.recv() => frame.context("the link ended")?,
                stream = incoming.streams.recv() => {
                    serving.spawn(serve_stream(stream.context("the link ended")?));
                    continue;
                }
                Some(_ended) = serving.join_next() => continue,
                () = sleep_until(due) => {
                    let (Some(cluster), Some(_)) = (&self.cluster_id, &*up) else { bail!("no registration in time") };
                    let metadata = HeartbeatMetadata { is_private: true, ..HeartbeatMetadata::default() };
                    let heartbeat = Heartbeat::healthy(cluster.clone(), self.id.clone(), metadata);
                    say(AgentMessage::Heartbeat(Box::new(heartbeat))).await?;
                    self.seen.sent(self.number);
                    due += self.far.heartbeat;
                    continue;
                }
            };
            let (request_id, message) = ControlMessage::parse(frame.as_text().context("a binary message")?)?;
            match message {
                ControlMessage::RegisterSuccess(success) => {
                    self.cluster_id = Some(success.cluster_id()?);
                    *up = Some((self.seen.registered(self.number), Instant::now()));
                    due = Instant::now();
                }
                ControlMessage::GatewayHello(_) => {
                    link.start_streams(Windows::Tuned);
                    let ack = GatewayHelloAck { use_yamux: true, capabilities: capability::all() };
                    say(AgentMessage::GatewayHelloAck(ack)).await?;
                }
                ControlMessage::HeartbeatAck => self.seen.acknowledged(self.number),
                ControlMessage::TokenRefresh(refresh) => {
                    self.token = refresh.token;
                    say(AgentMessage::TokenRefreshAck).await?;
                }
                ControlMessage::ConfigPush(config) => {
                    say(AgentMessage::ConfigAck(ConfigAck { revision: config.revision, ..ConfigAck::default() }))
                        .await?;
                }
                ControlMessage::Ping => {
                    link.send(AgentMessage::Pong(Pong::now()).encode(request_id.as_deref())).await?;
                }
                ControlMessage::Error(report) => bail!("the control plane says {:?}", report.error),
                _ => {}
            }
        }
    }
}
