//! The control plane's side of a link: registration, hello, heartbeats; then streams.

mod credential;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use mux::{CloseCode, Closed, ControlFrame, Incoming, Link, LinkMetrics, Pace, Role, Unread, Windows};
use protocol::message::{ErrorReport, GatewayHello, GoAway, Pong, Register, RegisterSuccess, YamuxConfig};
use protocol::{AgentId, AgentMessage, ClusterConfig, ControlMessage, RequestId, capability};
use runtime::error_text;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_util::sync::CancellationToken;

use crate::auth::{AgentToken, AgentTokens, Grant};
use crate::clusters::{AgentLink, Cluster, Clusters, Presence, RegistrationRefused};
use crate::configs::Configs;
use crate::metrics::Metrics;
use crate::older::OlderLink;
use crate::options;
use credential::Credential;

const REGISTER_TIMEOUT: Duration = Duration::from_secs(30);
/// How often streams that were idle for long are ended.
const SWEEP: Duration = Duration::from_secs(1);
/// How soon a drained link is closed.
const DRAIN_CHECK: Duration = Duration::from_millis(50);
/// The window that every yamux has from the start; larger ones are for peers that say `streams/2`.
const LEGACY_WINDOW: u64 = 256 * 1024;

/// What agents' links need.
#[derive(Debug)]
pub struct Agents {
    pub clusters: Arc<Clusters>,
    pub tokens: Arc<AgentTokens>,
    pub configs: Arc<Configs>,
    pub metrics: Arc<Metrics>,
    pub link_metrics: LinkMetrics,
    pub options: options::Links,
    /// Of all links.
    pub unread: Arc<Unread>,
    /// Of all links of agents that speak only the older protocol.
    pub budget: Arc<mux::Budget>,
    pub shutdown: CancellationToken,
}

#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("{0}")]
    Closed(#[from] Closed),
    #[error("no registration within {}s", REGISTER_TIMEOUT.as_secs())]
    NoRegistration,
    #[error("message that cannot be read: {0}")]
    Unreadable(#[from] protocol::ParseError),
    #[error("a binary message before the link carries streams")]
    NotText,
    #[error("registration refused: {0}")]
    Refused(#[from] RegistrationRefused),
    #[error("the agent's token was revoked")]
    Revoked,
    #[error("the agent's token has ended, and it took no other")]
    Ended,
}

/// A link whose agent has registered.
struct Registered<'a> {
    agents: &'a Agents,
    credential: Credential,
    link: Link,
    cluster: Arc<Cluster>,
    presence: Presence,
    /// Present once the agent takes streams.
    live: Option<Arc<AgentLink>>,
    /// Cancelled when the agent asks for no more of them, which it may do before.
    leaving: CancellationToken,
    register: Register,
    /// The configuration that was pushed last.
    pushed: Option<Arc<ClusterConfig>>,
}

impl Agents {
    pub fn config(&self) -> mux::Config {
        mux::Config {
            max_message: self.options.max_message,
            max_streams: self.options.max_streams,
            stream_window_total: self.options.window_total,
            ping_interval: self.options.ping_interval.get(),
            dead_after: self.options.dead_after.get(),
            unread: Arc::clone(&self.unread),
            ..mux::Config::default()
        }
    }

    /// Serves one link to its end. Whether it is `compressed` is for the log.
    pub async fn serve<S>(&self, socket: WebSocketStream<S>, token: AgentToken, compressed: bool)
    where
        S: AsyncRead + AsyncWrite + Pace + Unpin + Send + 'static,
    {
        let record = Arc::clone(&token.record);
        let Grant::Agent { cluster } = &record.grant else { return };
        let (link, incoming, driver) = mux::start(socket, Role::ControlPlane, self.config());
        self.link_metrics.watch(&link);
        let mut driving = JoinSet::new();
        driving.spawn(async move {
            driver.await;
        });
        let Err(error) = self.run(&link, incoming, token, cluster, compressed).await;
        match &error {
            LinkError::Closed(_) => {}
            LinkError::Unreadable(_) => {
                self.metrics.bad_messages.fetch_add(1, Relaxed);
                link.close(CloseCode::Invalid, "message cannot be read");
            }
            LinkError::NotText => link.close(CloseCode::Protocol, "a binary message before streams were negotiated"),
            LinkError::NoRegistration => link.close(CloseCode::Policy, "no registration"),
            LinkError::Refused(_) => {
                self.metrics.refused_agents.fetch_add(1, Relaxed);
                link.close(CloseCode::Policy, "registration refused");
            }
            LinkError::Revoked => link.close(CloseCode::Policy, "token revoked"),
            LinkError::Ended => link.close(CloseCode::Policy, "token ended"),
        }
        tracing::info!(cluster, token = record.id, reason = %error, "link ended");
        // The driver ends with the closing handshake, which has a time limit of its own.
        driving.join_next().await;
    }

    async fn run(
        &self,
        link: &Link,
        mut incoming: Incoming,
        token: AgentToken,
        cluster_name: &str,
        compressed: bool,
    ) -> Result<std::convert::Infallible, LinkError> {
        let (request_id, register) = timeout(REGISTER_TIMEOUT, first_register(&mut incoming, link))
            .await
            .unwrap_or(Err(LinkError::NoRegistration))?;
        let cluster = match self.register(cluster_name, &token, &register.agent_id).await {
            Ok(cluster) => cluster,
            Err(refused) => {
                if let RegistrationRefused::Store(error) = &refused {
                    tracing::error!(cluster = cluster_name, error = error_text(error), "cannot store a registration");
                }
                tell(link, &ControlMessage::Error(ErrorReport::new(refused.to_string())), request_id.as_ref()).await?;
                return Err(refused.into());
            }
        };
        let agent = &register.agent_id;
        let version = &register.agent_version;
        tracing::info!(cluster = cluster_name, %agent, version, compressed, "agent registered");
        // The answer carries the cluster's name too.
        if !register.name.is_empty() && register.name != cluster_name {
            tracing::warn!(
                cluster = cluster_name,
                %agent,
                name = register.name,
                "the agent calls its cluster by another name than its token: the token's counts, users reach the cluster by it"
            );
        }
        let presence = cluster.arrives(&register);
        let mut registered = Registered {
            agents: self,
            credential: Credential::new(token),
            link: link.clone(),
            cluster,
            presence,
            live: None,
            leaving: CancellationToken::new(),
            register,
            pushed: None,
        };
        registered.welcome(request_id.as_ref()).await?;
        if !registered.shares(capability::STREAMS_2) {
            registered.go_live()?;
        }
        let _counted = self.metrics.link();
        let outcome = registered.serve(incoming).await;
        // Before its link: a cluster with an agent and no link would look as if it were just connecting.
        drop(registered.presence);
        if let Some(live) = &registered.live {
            registered.cluster.remove(live);
            live.end();
        }
        outcome
    }
}

impl Agents {
    /// Binds the agent to its cluster, if the token is its own.
    async fn register(
        &self,
        cluster: &str,
        token: &AgentToken,
        agent: &AgentId,
    ) -> Result<Arc<Cluster>, RegistrationRefused> {
        if let Some(session) = token.session.as_ref().filter(|session| session.agent != *agent) {
            let (owner, refused) = (session.agent.clone(), agent.clone());
            return Err(RegistrationRefused::OtherAgentsToken { owner, refused });
        }
        self.clusters.register(cluster, agent).await
    }
}

async fn first_register(incoming: &mut Incoming, link: &Link) -> Result<(Option<RequestId>, Register), LinkError> {
    loop {
        let Some(frame) = incoming.control.recv().await else { return Err(link.closed().await.into()) };
        let text = frame.as_text().ok_or(LinkError::NotText)?;
        if let (request_id, AgentMessage::Register(register)) = AgentMessage::parse(text)? {
            return Ok((request_id, *register));
        }
        let ask = ControlMessage::Error(ErrorReport::new("not registered: send register first"));
        tell(link, &ask, None).await?;
    }
}

async fn tell(link: &Link, message: &ControlMessage, request_id: Option<&RequestId>) -> Result<(), Closed> {
    link.send(message.encode(request_id.map(RequestId::as_str))).await
}

impl Registered<'_> {
    fn shares(&self, capability: &str) -> bool {
        capability::has(&self.register.capabilities, capability)
    }

    async fn welcome(&self, request_id: Option<&RequestId>) -> Result<(), LinkError> {
        let record = self.cluster.record().clone();
        let capabilities = capability::all();
        let success = RegisterSuccess {
            name: Some(record.name),
            status: Some("active".to_owned()),
            capabilities: capabilities.clone(),
            ..RegisterSuccess::new(&record.id)
        };
        tell(&self.link, &ControlMessage::RegisterSuccess(Box::new(success)), request_id).await?;
        let yamux = YamuxConfig { max_stream_window_size: Some(LEGACY_WINDOW.into()), ..YamuxConfig::default() };
        let hello = GatewayHello { use_yamux: true, yamux_config: Some(yamux), capabilities };
        tell(&self.link, &ControlMessage::GatewayHello(hello), None).await?;
        Ok(())
    }

    async fn serve(&mut self, mut incoming: Incoming) -> Result<std::convert::Infallible, LinkError> {
        let mut checks = interval(SWEEP);
        let shutdown = self.agents.shutdown.clone();
        let mut stopping = false;
        let revoked = self.credential.token.record.revoked().clone();
        let mut configs = self.agents.configs.subscribe();
        self.push_config().await?;
        loop {
            tokio::select! {
                frame = incoming.control.recv() => match frame {
                    Some(frame) => {
                        let left = self.leaving.is_cancelled();
                        self.message(&frame).await?;
                        if !left && self.leaving.is_cancelled() {
                            checks = interval(DRAIN_CHECK);
                        }
                    }
                    None => return Err(self.link.closed().await.into()),
                },
                // An agent opens no streams; one that tries is told so by the reset that dropping it is.
                stream = incoming.streams.recv() => match stream {
                    Some(stream) => drop(stream),
                    None => return Err(self.link.closed().await.into()),
                },
                _ = checks.tick() => {
                    let leaving = self.leaving.is_cancelled();
                    if let Some(live) = &self.live {
                        // A request that has just ended leaves its stream in the pool.
                        live.tidy(stopping || leaving);
                    }
                    // Only this end knows that no more requests are on their way to the agent.
                    let idle = self.live.as_ref().map_or(self.link.stats().open_streams == 0, |live| live.is_idle());
                    if (stopping || leaving) && idle {
                        let why = if stopping { "the control plane is shutting down" } else { "the agent goes away" };
                        self.link.close(CloseCode::Away, why);
                        return Err(self.link.closed().await.into());
                    }
                }
                () = self.credential.due(), if self.shares(capability::TOKEN_REFRESH) => self.give_token().await?,
                Ok(()) = configs.changed() => self.push_config().await?,
                () = revoked.cancelled() => return Err(LinkError::Revoked),
                () = self.credential.ended() => return Err(LinkError::Ended),
                () = shutdown.cancelled(), if !stopping => {
                    stopping = true;
                    checks = interval(DRAIN_CHECK);
                    // Requests under way finish on this link; the listener takes no new ones.
                    if let Some(live) = &self.live {
                        live.ending.cancel();
                        live.tidy(true);
                    }
                    // The older protocol has no word for it.
                    if self.shares(capability::STREAMS_2) {
                        let go_away = GoAway { reason: "the control plane is shutting down".to_owned(), drain_ms: None };
                        tell(&self.link, &ControlMessage::GoAway(go_away), None).await?;
                    }
                }
            }
        }
    }

    async fn message(&mut self, frame: &ControlFrame) -> Result<(), LinkError> {
        let older = self.live.as_ref().and_then(|live| live.messages());
        let (text, older) = match (frame.as_text(), older, frame) {
            (Some(text), older, _) => (text, older),
            (None, Some(older), ControlFrame::Binary(bytes)) if older.binary(bytes) => return Ok(()),
            (None, ..) => return Err(LinkError::NotText),
        };
        let (request_id, message) = match AgentMessage::parse(text) {
            Ok(parsed) => parsed,
            Err(error) if older.is_some_and(|older| older.malformed(text, &error)) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        self.cluster.seen();
        match message {
            AgentMessage::Register(register) => {
                let name = self.cluster.record().name.clone();
                self.agents.register(&name, &self.credential.token, &register.agent_id).await?;
                self.presence.update(&register);
                if let Some(older) = older {
                    older.replace_token(register.k8s_service_token.clone());
                }
                self.register = *register;
                self.welcome(request_id.as_ref()).await?;
            }
            // Beside its messages; there is nothing yet that would go over streams.
            AgentMessage::GatewayHelloAck(ack) if ack.use_yamux && older.is_some() => {
                self.link.start_streams(Windows::Fixed);
            }
            AgentMessage::GatewayHelloAck(ack) if ack.use_yamux && self.live.is_none() => self.go_live()?,
            AgentMessage::Proxy(reply) => {
                if let Some(older) = older {
                    older.reply(request_id.as_ref(), reply);
                }
            }
            AgentMessage::Heartbeat(mut heartbeat) => {
                // Shown to users; what else there is may be anything.
                heartbeat.metadata.extra.clear();
                self.cluster.hear(heartbeat.metadata);
                self.agents.metrics.heartbeats.fetch_add(1, Relaxed);
                tell(&self.link, &ControlMessage::HeartbeatAck, request_id.as_ref()).await?;
            }
            AgentMessage::GoAway(go_away) => {
                tracing::info!(agent = %self.register.agent_id, reason = go_away.reason, "agent goes away");
                self.leaving.cancel();
                if let Some(live) = &self.live {
                    live.tidy(true);
                }
            }
            AgentMessage::ProtocolFallback(fallback) => {
                tracing::warn!(unknown = fallback.unknown_type, "the agent does not know a message of ours");
            }
            AgentMessage::Unknown { kind } if kind == "ping" => {
                tell(&self.link, &ControlMessage::Pong(Pong::now()), request_id.as_ref()).await?;
            }
            AgentMessage::Unknown { kind } => {
                self.agents.metrics.unknown_messages.fetch_add(1, Relaxed);
                tracing::debug!(kind, "message of unknown type");
            }
            AgentMessage::TokenRefreshAck => self.token_kept().await,
            AgentMessage::ConfigAck(ack) => {
                let (cluster, agent) = (&self.cluster.record().name.clone(), &self.register.agent_id);
                let refused: Vec<_> =
                    ack.refused.iter().map(|refused| format!("{}: {}", refused.setting, refused.reason)).collect();
                tracing::info!(cluster, %agent, revision = ack.revision, accepted = ?ack.accepted, ?refused, "configuration acknowledged");
                self.cluster.acknowledge(ack);
            }
            AgentMessage::GatewayHelloAck(_) | AgentMessage::Pong(_) => {}
        }
        Ok(())
    }

    async fn give_token(&mut self) -> Result<(), LinkError> {
        let token = self.agents.tokens.issue(&self.credential.token.record, &self.register.agent_id);
        self.credential.given(token.expires_at);
        tell(&self.link, &ControlMessage::TokenRefresh(token), None).await?;
        Ok(())
    }

    /// The agent has stored its token, so that the one it came with is not needed any more.
    async fn token_kept(&mut self) {
        if !self.credential.kept() {
            return;
        }
        let record = &self.credential.token.record;
        if self.credential.token.session.is_none()
            && let Err(error) = self.agents.tokens.used(record, &self.register.agent_id).await
        {
            tracing::error!(token = record.id, error = error_text(&error), "cannot store that a token is used up");
        }
    }

    /// What the cluster is to be configured as, unless it was told on this link. That it is nothing is told too: the agent
    /// keeps what it was told before, maybe by another link.
    async fn push_config(&mut self) -> Result<(), LinkError> {
        let config = self.agents.configs.of(&self.cluster.record().name);
        let Some(config) = config.filter(|config| self.pushed.as_ref() != Some(config)) else { return Ok(()) };
        if !self.shares(capability::CONFIG_PUSH) {
            return Ok(());
        }
        self.pushed = Some(Arc::clone(&config));
        tell(&self.link, &ControlMessage::ConfigPush(Box::new(config.as_ref().clone())), None).await?;
        Ok(())
    }

    /// From here on requests may use the link.
    fn go_live(&mut self) -> Result<(), LinkError> {
        let (agent, link, options) = (self.register.agent_id.clone(), self.link.clone(), &self.agents.options);
        let live = if self.shares(capability::STREAMS_2) {
            self.link.start_streams(Windows::Tuned);
            AgentLink::new(agent, link, options.max_idle_streams, &self.leaving)
        } else {
            tracing::info!(
                cluster = self.cluster.record().name,
                %agent,
                version = self.register.agent_version,
                token = self.register.k8s_service_token.is_some(),
                "this agent speaks only the older protocol: requests go as messages"
            );
            let token = self.register.k8s_service_token.clone();
            let older = OlderLink::new(link.clone(), token, &self.agents.budget, &self.agents.metrics, options);
            AgentLink::older(agent, link, older, options.max_idle_streams, &self.leaving)
        };
        let live = Arc::new(live);
        let shares = live.messages().is_none() && self.shares(capability::LINKS_N);
        self.cluster.add(Arc::clone(&live), shares)?;
        self.live = Some(live);
        Ok(())
    }
}
