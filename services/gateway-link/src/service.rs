use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bus::Bus;
use bus::state::{GetIdentity, Identity};
use mux::{Budget, CloseCode, LinkMetrics};
use runtime::{Backoff, Condition};
use targets::Names;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::calls::Calls;
use crate::configuration::Configuration;
use crate::credentials::Credentials;
use crate::dial::Dialer;
use crate::facts::Known;
use crate::forward::Forwarder;
use crate::heartbeat::{Cadence, Heartbeats};
use crate::lease::{Candidate, Held};
use crate::metrics::{ConnectionState, Metrics};
use crate::options::Options;
use crate::register::{RegisterError, hostname, identity};
use crate::session::{Established, Links, STABLE, SessionError};
use crate::state::States;
use crate::tunnel::{Forwards, Tunnels};

/// A refused token is not tried again as often as a lost connection.
const REFUSED_RETRY: Duration = Duration::from_secs(60);

/// Keeps a link to the control plane up until shutdown. Fails when the settings cannot be used or the very first attempt is
/// refused: a wrong token is a mistake to be seen at once, not to be retried.
pub async fn run(options: Options, context: runtime::Context) -> anyhow::Result<()> {
    let bus = Bus::connect(&options.bus, bus::Service::GatewayLink).await.context("cannot use the bus")?;
    let names = Names::dns(options.tunnels.cluster_domain.as_deref());
    bus.register_metrics(&context.meter);
    run_on(options, context, bus, names).await
}

/// [`run`] on a bus that is there already, with Services that have these names.
pub async fn run_on(options: Options, context: runtime::Context, bus: Bus, names: Names) -> anyhow::Result<()> {
    let begun = Instant::now();
    let dialer = Dialer::new(&options.pipeops).context("cannot connect to the control plane with these settings")?;
    let metrics = Metrics::register(&context.meter);
    let forwards = Forwards::new(&options.tunnel)?;
    let names = names.elsewhere(forwards.places());
    let tunnels = Tunnels::new(&options.tunnels, forwards.clone(), names, metrics.tcp.clone(), metrics.udp.clone());
    metrics.unverified(options.pipeops.tls.insecure_skip_verify);
    let link_metrics = LinkMetrics::register(&context.meter, "pipeops_agent");
    link_metrics.register_websocket(&context.meter, "pipeops_agent");
    let waiting = Budget::limited(options.proxied.waiting_total);
    let description = "Bytes that came as messages, or are gathered to leave as one, and wait";
    waiting.register(&context.meter, "pipeops_agent_proxied_waiting_bytes", description);
    let links = Links {
        forwarder: Forwarder {
            bus: bus.clone(),
            tracer: context.tracer.clone(),
            metrics: metrics.clone(),
            tunnels: tunnels.clone(),
        },
        condition: context.health.condition("link"),
        metrics: link_metrics,
        waiting,
        credentials: Arc::new(Credentials::new(bus.clone(), &options.pipeops)),
        configuration: Arc::new(Configuration::new(bus.clone(), tunnels)),
        known: Known::default(),
        states: States::new(metrics.clone()),
        dialer,
        context,
        options,
    };
    let mut beside = JoinSet::new();
    let condition = links.context.health.condition("bus");
    beside.spawn(bus.clone().watch_status(move |state| condition.set(state)));
    beside.spawn(links.known.clone().gather(bus.clone()));
    let heartbeats = Heartbeats {
        cadence: Cadence::new(&links.options.agent, links.configuration.heartbeat()),
        states: links.states.subscribe(),
        known: links.known.clone(),
        metrics,
        version: links.context.version,
        begun,
    };
    beside.spawn(heartbeats.run());
    let calls =
        Calls::new(&links, forwards.clone()).context("cannot connect to the control plane with these settings")?;
    beside.spawn(forwards.keep(Arc::clone(&calls)));
    let answering = calls.serve(&bus).await.context("cannot answer on the bus")?;
    let outcome = keep_linked(&links).await;
    links.states.set(ConnectionState::Disconnected);
    // Whoever still waits is told, and asks another.
    drop(answering);
    beside.shutdown().await;
    bus.close().await;
    outcome
}

/// What one attempt leaves to the next.
struct Course {
    candidate: Candidate,
    /// Only one replica may have a link, or it is not known yet whether more may.
    alone: bool,
    held: Option<Held>,
    /// The gateway of the last registration may be gone straight to.
    resume: bool,
    /// The control plane does not know the cluster's id any more.
    forgotten: bool,
    /// As state-keeper has said it last: while it is away, that is who this agent is.
    identity: Option<Identity>,
}

impl Course {
    /// Waits for the lease, where there may be only one link.
    async fn permitted(&mut self, condition: &Condition) {
        if self.alone && self.held.is_none() {
            self.held = self.candidate.wait(|reason| condition.not_ready(reason)).await;
        }
    }

    async fn connect<'a>(&mut self, links: &'a Links) -> Result<Established<'a>, SessionError> {
        let identity = self.identity(links).await;
        self.permitted(&links.condition).await;
        let connecting = Self::dial(links, &identity, std::mem::take(&mut self.resume), self.forgotten);
        let outcome = match &self.held {
            None => connecting.await,
            Some(held) => tokio::select! {
                outcome = connecting => outcome,
                holder = held.lost() => Err(SessionError::LeaseLost(holder)),
            },
        };
        match &outcome {
            Ok(link) => self.identity = Some(link.identity.clone()),
            Err(SessionError::Register(RegisterError::Forgotten(_))) => self.forgotten = true,
            Err(_) => {}
        }
        outcome
    }

    async fn identity(&mut self, links: &Links) -> Identity {
        let bus = &links.forwarder.bus;
        let known = match (bus.request(&GetIdentity {}).await, self.identity.take()) {
            (Ok(identity), _) => identity,
            (Err(error), Some(known)) => {
                tracing::warn!(%error, "no identity from state-keeper: going by the last");
                known
            }
            (Err(_), None) => identity(bus, |reason| links.condition.not_ready(reason)).await,
        };
        self.identity = Some(known.clone());
        known
    }

    async fn dial<'a>(
        links: &'a Links,
        identity: &Identity,
        resume: bool,
        forgotten: bool,
    ) -> Result<Established<'a>, SessionError> {
        links.configuration.restore().await;
        if resume && let (Some(cluster), Some(gateway)) = (&identity.cluster_id, &identity.gateway_ws_url) {
            match links.resume(identity, cluster, gateway).await {
                Err(error) => {
                    let error = runtime::error_text(&error);
                    tracing::warn!(error, "the gateway of the last registration is not there: registering anew");
                }
                established => return established,
            }
        }
        links.connect(identity, forgotten).await
    }

    /// Completes when another replica has the lease.
    async fn hold(&mut self, shared: &CancellationToken) -> String {
        if let Some(held) = &self.held {
            tokio::select! {
                biased;
                () = shared.cancelled() => self.release().await,
                holder = held.lost() => return holder,
            }
        }
        std::future::pending().await
    }

    async fn release(&mut self) {
        if let Some(held) = self.held.take() {
            held.release().await;
        }
    }

    /// Serves the link to its end, or until the lease is lost. The lease is given back as soon as it is known that other
    /// replicas may have links too, which the control plane may say in its hello only.
    async fn serve(&mut self, link: Established<'_>) -> Result<(), SessionError> {
        let shared = link.shared();
        let begun = Instant::now();
        let handle = link.handle();
        let mut serving = std::pin::pin!(link.serve());
        let outcome = tokio::select! {
            outcome = &mut serving => outcome,
            why = self.hold(&shared) => {
                handle.close(CloseCode::Away, "another replica has the link");
                let _ended = serving.await;
                Err(SessionError::LeaseLost(why))
            }
        };
        self.alone = !shared.is_cancelled();
        let forgotten = matches!(outcome, Err(SessionError::Forgotten(_)));
        self.forgotten = forgotten;
        // A gateway that was good is gone back to; the control plane may have another meanwhile, if it was not.
        self.resume = !forgotten && begun.elapsed() >= STABLE;
        if matches!(outcome, Err(SessionError::LeaseLost(_))) {
            self.held = None;
        }
        outcome
    }
}

async fn keep_linked(links: &Links) -> anyhow::Result<()> {
    let shutdown = &links.context.shutdown;
    let reconnect = &links.options.pipeops.reconnect;
    let mut backoff = Backoff::new(reconnect.initial.get(), reconnect.max.get());
    let mut registered_before = false;
    let mut course = Course {
        candidate: Candidate::new(links.forwarder.bus.clone(), &hostname()),
        alone: true,
        held: None,
        resume: true,
        forgotten: false,
        identity: None,
    };
    loop {
        links.states.set(if registered_before { ConnectionState::Reconnecting } else { ConnectionState::Connecting });
        let connected = tokio::select! {
            connected = course.connect(links) => connected,
            () = shutdown.cancelled() => {
                course.release().await;
                return Ok(());
            }
        };
        let outcome = match connected {
            Ok(link) => {
                let begun = Instant::now();
                if std::mem::replace(&mut registered_before, true) {
                    links.forwarder.metrics.reconnected();
                }
                let outcome = course.serve(link).await;
                if begun.elapsed() >= STABLE {
                    backoff.reset();
                }
                outcome
            }
            Err(error) if error.is_refusal() && !registered_before => {
                course.release().await;
                return Err(error).context("the first registration was refused");
            }
            Err(error) => Err(error),
        };
        // Another replica may do better.
        course.release().await;
        let Err(error) = outcome else { return Ok(()) };
        let refused = error.is_refusal();
        let wait = if refused { REFUSED_RETRY } else { backoff.wait() };
        report(&error, wait, &links.condition);
        links.states.set(if refused { ConnectionState::Disconnected } else { ConnectionState::Reconnecting });
        tokio::select! {
            () = sleep(wait) => {}
            () = shutdown.cancelled() => return Ok(()),
        }
    }
}

fn report(error: &SessionError, wait: Duration, condition: &Condition) {
    let text = runtime::error_text(error);
    if error.is_refusal() {
        tracing::error!(error = text, retry_in = ?wait, "the control plane refuses this agent");
    } else {
        tracing::warn!(error = text, retry_in = ?wait, "no link");
    }
    condition.not_ready(text);
}
