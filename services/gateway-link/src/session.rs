use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bus::state::Identity;
use mux::{CloseCode, Closed, ControlFrame, Incoming, Link, LinkMetrics, Role, Windows};
use protocol::message::proxied::ProxyCommand;
use protocol::message::{GatewayHelloAck, GoAway, Pong, ProtocolFallback};
use protocol::{AgentMessage, ControlMessage};
use runtime::Condition;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::dial::{DialError, Dialer};
use crate::forward::Forwarder;
use crate::heartbeat::heartbeats;
use crate::options::Options;
use crate::proxied::Proxied;
use crate::register::{RegisterError, Registered, capabilities, register};

/// Everything a link needs that outlives it.
#[derive(Debug)]
pub struct Links {
    pub options: Options,
    pub dialer: Dialer,
    pub context: runtime::Context,
    pub forwarder: Forwarder,
    pub condition: Condition,
    pub metrics: LinkMetrics,
}

/// How a link ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Register(#[from] RegisterError),
    #[error("the link was lost")]
    Closed(#[from] Closed),
    #[error("the control plane does not know this cluster any more: {0}")]
    Forgotten(String),
}

impl SessionError {
    /// Trying again changes nothing by itself: the token or the registration is refused.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Dial(DialError::Refused { .. } | DialError::NoToken | DialError::TokenCharacters)
                | Self::Register(RegisterError::Invalid(_) | RegisterError::Unreadable(_) | RegisterError::Refused(_))
        )
    }
}

/// A registered link. Its tasks end with it.
#[derive(Debug)]
pub struct Established<'a> {
    links: &'a Links,
    link: Link,
    incoming: Incoming,
    registered: Registered,
    tasks: JoinSet<()>,
    streams: JoinSet<()>,
    proxied: Proxied,
    answered_unknown: HashSet<String>,
}

/// Unknown message types that are answered once each; a peer that invents types for ever is not followed.
const UNKNOWN_TYPES: usize = 64;

impl Links {
    /// Dials and registers.
    pub async fn connect(&self, identity: &Identity) -> Result<Established<'_>, SessionError> {
        let pipeops = &self.options.pipeops;
        let config = mux::Config {
            ping_interval: pipeops.ping_interval.get(),
            dead_after: pipeops.dead_after.get(),
            max_streams: self.options.link.max_streams,
            stream_window_total: self.options.link.window_total,
            unread: Arc::new(mux::Unread::limited(self.options.link.unread_total)),
            ..mux::Config::default()
        };
        let socket = self.dialer.dial(config.websocket()).await?;
        let (link, mut incoming, driver) = mux::start(socket, Role::Agent, config);
        self.metrics.watch(&link);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            driver.await;
        });
        let registered =
            register(&self.options, self.context.version, &self.forwarder.bus, identity, &link, &mut incoming.control)
                .await?;
        let Registered { cluster_id, name, .. } = &registered;
        tracing::info!(%cluster_id, cluster = name, control_plane = pipeops.api_url, "registered");
        if let Some(name) = name
            && *name != self.options.agent.cluster_name
        {
            tracing::warn!(
                cluster = name,
                configured = self.options.agent.cluster_name,
                "the control plane knows this cluster by another name than agent.cluster_name: users reach it by its own"
            );
        }
        if registered.tuned {
            self.condition.not_ready("registered; the control plane has not begun to send requests (gateway_hello)");
        } else {
            // A control plane of the published protocol may send requests at once, and need not say that it will.
            self.condition.ready();
        }
        tasks.spawn(heartbeats(
            link.clone(),
            pipeops.heartbeat_interval.get(),
            registered.cluster_id.clone(),
            identity.agent_id.clone(),
            self.context.version.to_owned(),
            self.forwarder.metrics.clone(),
        ));
        Ok(Established {
            links: self,
            proxied: Proxied::new(link.clone(), &self.forwarder, &self.options.proxied),
            link,
            incoming,
            registered,
            tasks,
            streams: JoinSet::new(),
            answered_unknown: HashSet::new(),
        })
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
            if cut || stopping && self.streams.is_empty() && self.proxied.is_idle() && !self.registered.tuned {
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
                self.link.start_streams(if self.registered.tuned { Windows::Tuned } else { Windows::Fixed });
                let capabilities = capabilities();
                self.say(AgentMessage::GatewayHelloAck(GatewayHelloAck { use_yamux: true, capabilities })).await;
                self.links.condition.ready();
            }
            ControlMessage::GatewayHello(_) => {
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
            ControlMessage::Unknown { kind } => self.unknown(kind).await,
            other => tracing::trace!(kind = other.kind(), "control message"),
        }
        Ok(())
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
