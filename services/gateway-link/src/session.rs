use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bus::state::{Identity, LinkToken};
use mux::{Budget, CloseCode, Closed, ControlFrame, Incoming, Link, LinkMetrics, Role, Windows};
use protocol::message::proxied::ProxyCommand;
use protocol::message::{GatewayHelloAck, GoAway, HeartbeatMetadata, Pong, ProtocolFallback, TokenRefresh};
use protocol::{AgentMessage, ClusterConfig, ClusterId, ControlMessage, capability};
use runtime::Condition;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::configuration::Configuration;
use crate::credentials::{CredentialError, Credentials};
use crate::dial::{DialError, Dialer, Socket};
use crate::facts::Known;
use crate::forward::Forwarder;
use crate::options::Options;
use crate::proxied::Proxied;
use crate::register::{Introduction, RegisterError, Registered, register};
use crate::state::{States, Up};

/// Everything a link needs that outlives it.
#[derive(Debug)]
pub struct Links {
    pub options: Options,
    pub dialer: Dialer,
    pub context: runtime::Context,
    pub forwarder: Forwarder,
    pub condition: Condition,
    pub metrics: LinkMetrics,
    /// Of what came as messages and waits.
    pub waiting: Arc<Budget>,
    pub credentials: Arc<Credentials>,
    pub configuration: Arc<Configuration>,
    pub known: Known,
    pub states: States,
}

/// How a link ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Credential(#[from] CredentialError),
    #[error("state-keeper does not say which token to show: {0}")]
    NoState(String),
    #[error(transparent)]
    Register(#[from] RegisterError),
    #[error("a file was not read")]
    Died(#[from] JoinError),
    #[error("the link was lost")]
    Closed(#[from] Closed),
    #[error("the control plane does not know this cluster any more: {0}")]
    Forgotten(String),
    #[error("another replica has the link: {0}")]
    LeaseLost(String),
}

impl SessionError {
    /// Trying again changes nothing by itself: the token or the registration is refused.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Dial(DialError::Refused { .. } | DialError::TokenCharacters)
                | Self::Credential(CredentialError::NoToken)
                | Self::Register(RegisterError::Invalid(_) | RegisterError::Unreadable(_) | RegisterError::Refused(_))
        )
    }
}

/// A link that carries, or is about to carry, requests. Its tasks end with it.
#[derive(Debug)]
pub struct Established<'a> {
    links: &'a Links,
    link: Link,
    incoming: Incoming,
    /// Who this agent is registered as.
    pub identity: Identity,
    /// What the control plane can do beyond the published protocol.
    capabilities: Vec<String>,
    /// Cancelled once it is known that other replicas may have links of their own.
    shared: CancellationToken,
    /// What the control plane wishes of the cluster.
    wishes: watch::Sender<Arc<ClusterConfig>>,
    tasks: JoinSet<()>,
    streams: JoinSet<()>,
    proxied: Proxied,
    answered_unknown: HashSet<String>,
}

/// Unknown message types that are answered once each; a peer that invents types for ever is not followed.
const UNKNOWN_TYPES: usize = 64;

/// A WebSocket on which the link's driver runs.
struct Opened {
    link: Link,
    incoming: Incoming,
    driving: JoinSet<()>,
}

impl Links {
    /// Dials and registers; then goes on at the gateway, where the control plane names one.
    pub async fn connect(&self, identity: &Identity, forgotten: bool) -> Result<Established<'_>, SessionError> {
        let mut opened = self.open(&self.dialer).await?;
        let mut seen = HeartbeatMetadata::default();
        self.known.describe(&mut seen);
        let introduction = Introduction {
            options: &self.options,
            version: self.context.version,
            identity,
            k8s_version: &seen.k8s_version,
            forgotten,
        };
        let registered =
            register(introduction, &self.forwarder.bus, &opened.link, &mut opened.incoming.control).await?;
        let Registered { cluster_id, name, gateway, capabilities } = registered;
        tracing::info!(%cluster_id, cluster = name, control_plane = self.options.pipeops.api_url, "registered");
        if let Some(name) = name
            && name != self.options.agent.cluster_name
        {
            tracing::warn!(
                cluster = name,
                configured = self.options.agent.cluster_name,
                "the control plane knows this cluster by another name than agent.cluster_name: users reach it by its own"
            );
        }
        let Some(gateway) = gateway else {
            return Ok(self.established(opened, as_registered(identity, &cluster_id, None), capabilities));
        };
        opened.link.close(CloseCode::Normal, "registered; going on at the gateway");
        opened.link.closed().await;
        self.resume(identity, &cluster_id, &gateway).await
    }

    /// Goes straight to the gateway, which takes no registration.
    pub async fn resume(
        &self,
        identity: &Identity,
        cluster_id: &ClusterId,
        gateway: &str,
    ) -> Result<Established<'_>, SessionError> {
        let dialer = {
            let (options, version) = (self.options.pipeops.clone(), self.context.version);
            let (cluster, gateway) = (cluster_id.clone(), gateway.to_owned());
            // It reads the files of certificates.
            blocking(move || Dialer::to_gateway(&options, &gateway, &cluster, version)).await?
        };
        let opened = self.open(&dialer).await?;
        tracing::info!(%cluster_id, gateway, "going on at the gateway");
        Ok(self.established(opened, as_registered(identity, cluster_id, Some(gateway)), Vec::new()))
    }

    fn established(&self, opened: Opened, identity: Identity, capabilities: Vec<String>) -> Established<'_> {
        let Opened { link, incoming, driving: mut tasks } = opened;
        let wishes = watch::Sender::default();
        let (configuration, wished, answers) = (Arc::clone(&self.configuration), wishes.subscribe(), link.clone());
        tasks.spawn(async move { configuration.follow(wished, answers).await });
        if capability::has(&capabilities, capability::STREAMS_2) {
            const WAITING: &str = "registered; the control plane has not begun to send requests (gateway_hello)";
            self.condition.not_ready(WAITING);
        } else {
            self.condition.ready();
        }
        if let Some(cluster_id) = identity.cluster_id.clone() {
            self.states.connected(Up { link: link.clone(), cluster_id, agent_id: identity.agent_id.clone() });
        }
        let mut established = Established {
            links: self,
            proxied: Proxied::new(link.clone(), &self.forwarder, &self.options.proxied, &self.waiting),
            link,
            incoming,
            identity,
            capabilities: Vec::new(),
            shared: CancellationToken::new(),
            wishes,
            tasks,
            streams: JoinSet::new(),
            answered_unknown: HashSet::new(),
        };
        established.learn(capabilities);
        established
    }

    async fn open(&self, dialer: &Dialer) -> Result<Opened, SessionError> {
        let pipeops = &self.options.pipeops;
        let config = mux::Config {
            ping_interval: pipeops.ping_interval.get(),
            dead_after: pipeops.dead_after.get(),
            max_message: self.options.link.max_message,
            max_streams: self.options.link.max_streams,
            stream_window_total: self.options.link.window_total,
            unread: Arc::new(mux::Unread::limited(self.options.link.unread_total)),
            ..mux::Config::default()
        };
        let socket = self.dial(dialer, &config).await?;
        let (link, incoming, driver) = mux::start(socket, Role::Agent, config);
        self.metrics.watch(&link);
        // A control plane of the published protocol sends requests as messages, with all that their bodies hold, as soon
        // as it has answered the registration.
        link.expect_bulk();
        let mut driving = JoinSet::new();
        driving.spawn(async move {
            driver.await;
        });
        Ok(Opened { link, incoming, driving })
    }

    /// Shows the token that was given last; the one of the settings, if there is none or it is refused.
    async fn dial(&self, dialer: &Dialer, config: &mux::Config) -> Result<Socket, SessionError> {
        let given = self.credentials.given().await.map_err(SessionError::NoState)?;
        let mut refusal = None;
        if let Some(token) = &given {
            match dialer.dial(token, config.websocket()).await {
                Err(error @ DialError::Refused { .. }) => {
                    self.credentials.refused();
                    refusal = Some(SessionError::from(error));
                }
                outcome => return Ok(outcome?),
            }
        }
        let refusal = match (self.dial_by_settings(dialer, config).await, refusal) {
            (Ok(socket), None) => return Ok(socket),
            (Ok(socket), Some(error)) => {
                let error = runtime::error_text(&error);
                tracing::warn!(error, "the token that was given is refused, and that of the settings accepted");
                self.credentials.given_is_stale();
                return Ok(socket);
            }
            (Err(error), None) if !error.is_refusal() => return Err(error),
            // That of the settings is used up by the first registration.
            (Err(error), refusal) => refusal.unwrap_or(error),
        };
        // Another replica may have registered meanwhile.
        let newer = self.credentials.given().await.map_err(SessionError::NoState)?;
        match newer.filter(|newer| Some(newer) != given.as_ref()) {
            Some(newer) => Ok(dialer.dial(&newer, config.websocket()).await?),
            None => Err(refusal),
        }
    }

    async fn dial_by_settings(&self, dialer: &Dialer, config: &mux::Config) -> Result<Socket, SessionError> {
        let credentials = Arc::clone(&self.credentials);
        let token = blocking(move || credentials.of_settings()).await?;
        Ok(dialer.dial(&token, config.websocket()).await?)
    }
}

impl Established<'_> {
    /// Serves the link to its end. `Ok` means that the process is shutting down and the link has been drained.
    pub async fn serve(mut self) -> Result<(), SessionError> {
        let outcome = self.serve_until_closed().await;
        // Streams of a lost link have failed already; none outlives it.
        self.streams.shutdown().await;
        self.proxied.shutdown().await;
        self.tasks.shutdown().await;
        outcome
    }

    async fn serve_until_closed(&mut self) -> Result<(), SessionError> {
        let shutdown = self.links.context.shutdown.clone();
        let mut stopping = false;
        let mut drained = std::pin::pin!(tokio::time::sleep(Duration::MAX));
        let mut cut = false;
        loop {
            tokio::select! {
                frame = self.incoming.control.recv() => match frame {
                    Some(frame) => self.control(&frame).await?,
                    None if stopping => return Ok(()),
                    None => return Err(self.link.closed().await.into()),
                },
                stream = self.incoming.streams.recv() => match stream {
                    Some(stream) => {
                        self.streams.spawn(self.links.forwarder.clone().forward(stream));
                    }
                    None if stopping => return Ok(()),
                    None => return Err(self.link.closed().await.into()),
                },
                Some(_ended) = self.streams.join_next(), if !self.streams.is_empty() => {}
                Some(_ended) = self.tasks.join_next(), if !self.tasks.is_empty() => {}
                () = self.proxied.ended() => {}
                () = &mut drained, if stopping => {
                    tracing::info!(streams = self.streams.len(), "cutting what is left");
                    self.streams.shutdown().await;
                    self.proxied.shutdown().await;
                    cut = true;
                }
                () = shutdown.cancelled(), if !stopping => {
                    stopping = true;
                    drained.as_mut().reset(Instant::now() + self.links.options.common.drain_timeout());
                    tracing::info!(streams = self.streams.len(), "draining the link");
                    self.say(AgentMessage::GoAway(GoAway { reason: "shutting down".to_owned(), drain_ms: None })).await;
                }
            }
            // A control plane that understands the message closes the link: it may have sent one more request meanwhile.
            if cut || stopping && self.streams.is_empty() && self.proxied.is_idle() && !self.can(capability::STREAMS_2)
            {
                said_all(&self.link).await;
                self.link.close(CloseCode::Away, "shutting down");
                self.link.closed().await;
                return Ok(());
            }
        }
    }

    async fn control(&mut self, frame: &ControlFrame) -> Result<(), SessionError> {
        let text = match (frame.as_text(), frame) {
            (Some(text), _) => text,
            (None, ControlFrame::Binary(bytes)) => {
                self.proxied.binary(bytes);
                return Ok(());
            }
            (None, ControlFrame::Text(_)) => return Ok(()),
        };
        let (request_id, message) = match ControlMessage::parse(text) {
            Ok(parsed) => parsed,
            Err(error) => {
                tracing::warn!(%error, "unreadable control message");
                self.proxied.unreadable(text, &error);
                return Ok(());
            }
        };
        match message {
            ControlMessage::GatewayHello(hello) if hello.use_yamux => {
                // Streams may follow the acknowledgement at once, so they must be understood before it leaves.
                self.learn(hello.capabilities);
                let tuned = self.can(capability::STREAMS_2);
                self.link.start_streams(if tuned { Windows::Tuned } else { Windows::Fixed });
                let capabilities = capability::all();
                self.say(AgentMessage::GatewayHelloAck(GatewayHelloAck { use_yamux: true, capabilities })).await;
                self.links.condition.ready();
            }
            ControlMessage::GatewayHello(hello) => {
                self.learn(hello.capabilities);
                tracing::info!("the control plane sends its requests as messages, not in streams");
                self.links.condition.ready();
            }
            ControlMessage::Proxy(command) => self.proxied.command(request_id, command),
            ControlMessage::Ping => {
                let pong = AgentMessage::Pong(Pong::now());
                let request_id = request_id.as_ref().map(protocol::RequestId::as_str);
                let _gone = self.link.send(pong.encode(request_id)).await;
            }
            ControlMessage::Error(report) if report.asks_for_registration() => {
                return Err(SessionError::Forgotten(report.error));
            }
            ControlMessage::Error(report) => tracing::warn!(error = report.error, "the control plane reports an error"),
            ControlMessage::GoAway(go_away) => {
                tracing::info!(reason = go_away.reason, "the control plane goes away; reconnecting when it has");
            }
            ControlMessage::TokenRefresh(TokenRefresh { token, expires_at }) => {
                self.keep(LinkToken { token, expires_at });
            }
            ControlMessage::ConfigPush(config) => drop(self.wishes.send_replace(Arc::new(*config))),
            ControlMessage::Unknown { kind } => self.unknown(kind).await,
            other => tracing::trace!(kind = other.kind(), "control message"),
        }
        Ok(())
    }

    /// What the control plane says that it can do: in its answer to the registration, in its hello, or in part in either.
    fn learn(&mut self, said: Vec<String>) {
        let known = capability::all();
        let new: Vec<_> = said.into_iter().filter(|said| known.contains(said) && !self.can(said)).collect();
        self.capabilities.extend(new);
        if self.can(capability::LINKS_N) {
            self.shared.cancel();
        }
    }

    fn can(&self, capability: &str) -> bool {
        capability::has(&self.capabilities, capability)
    }

    /// To end it from elsewhere.
    pub fn handle(&self) -> Link {
        self.link.clone()
    }

    /// Cancelled once it is known that other replicas may have links of their own.
    pub fn shared(&self) -> CancellationToken {
        self.shared.clone()
    }

    /// Stores a new token, then says so. Not here: state-keeper may take its time.
    fn keep(&mut self, token: LinkToken) {
        let (link, credentials) = (self.link.clone(), Arc::clone(&self.links.credentials));
        self.tasks.spawn(async move {
            let expires = token.expires_at;
            match credentials.keep(token).await {
                Ok(()) => {
                    tracing::info!(%expires, "the token is renewed");
                    let _gone = link.send(AgentMessage::TokenRefreshAck.encode(None)).await;
                }
                // The control plane gives another when this one is not acknowledged.
                Err(error) => tracing::error!(%error, "the new token cannot be stored"),
            }
        });
    }

    async fn unknown(&mut self, kind: String) {
        if self.answered_unknown.len() >= UNKNOWN_TYPES || !self.answered_unknown.insert(kind.clone()) {
            return;
        }
        tracing::warn!(kind, "control message of unknown type");
        let known =
            ["register_success", "register_in_progress", "heartbeat_ack", "ping", "pong", "gateway_hello", "error"];
        let known = known.iter().chain(&ProxyCommand::KINDS);
        self.say(AgentMessage::ProtocolFallback(ProtocolFallback {
            agent_version: self.links.context.version.to_owned(),
            unknown_type: kind,
            supported_types: known.map(ToString::to_string).collect(),
            timestamp: Pong::now().timestamp,
            protocol_version: "1.0".to_owned(),
            ..ProtocolFallback::default()
        }))
        .await;
    }

    /// A message that cannot be sent any more is no error here: the end of the link is reported by the link itself.
    async fn say(&self, message: AgentMessage) {
        let _gone = self.link.send(message.encode(None)).await;
    }
}

/// What reads files, of which the disk may be away.
async fn blocking<T, E>(read: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, SessionError>
where
    T: Send + 'static,
    E: Into<SessionError> + Send + 'static,
{
    spawn_blocking(read).await?.map_err(Into::into)
}

fn as_registered(identity: &Identity, cluster_id: &ClusterId, gateway: Option<&str>) -> Identity {
    Identity {
        agent_id: identity.agent_id.clone(),
        cluster_id: Some(cluster_id.clone()),
        gateway_ws_url: gateway.map(str::to_owned),
    }
}

/// Waits a moment for what streams have said in the end to leave.
async fn said_all(link: &Link) {
    let gone = async {
        while link.stats().open_streams > 0 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    // What a peer does not take is not waited for.
    let _left = timeout(Duration::from_secs(1), gone).await;
}

/// A link that was up for this long was a good one.
pub const STABLE: Duration = Duration::from_secs(10);
