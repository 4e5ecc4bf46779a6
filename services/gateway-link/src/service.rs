use std::time::Duration;

use anyhow::Context as _;
use bus::Bus;
use mux::LinkMetrics;
use runtime::Condition;
use targets::Names;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::backoff::Backoff;
use crate::dial::Dialer;
use crate::forward::Forwarder;
use crate::metrics::{ConnectionState, Metrics};
use crate::options::Options;
use crate::register::identity;
use crate::session::{Links, STABLE, SessionError};
use crate::tunnel::Tunnels;

/// A refused token is not tried again as often as a lost connection.
const REFUSED_RETRY: Duration = Duration::from_secs(60);

/// Keeps a link to the control plane up until shutdown. Fails when the settings cannot be used or the very first attempt is
/// refused: a wrong token is a mistake to be seen at once, not to be retried.
pub async fn run(options: Options, context: runtime::Context) -> anyhow::Result<()> {
    let bus = Bus::connect(&options.bus, bus::Service::GatewayLink).await.context("cannot use the bus")?;
    let names = Names::dns(options.tunnels.cluster_domain.as_deref());
    serve(bus, names, options, context).await
}

/// [`run`] on a bus that is there already, with Services that have these names.
pub async fn serve(bus: Bus, names: Names, options: Options, context: runtime::Context) -> anyhow::Result<()> {
    let dialer = Dialer::new(&options.pipeops).context("cannot connect to the control plane with these settings")?;
    bus.register_metrics(&context.meter);
    let metrics = Metrics::register(&context.meter);
    let tunnels = Tunnels::new(&options.tunnels, names, metrics.tcp.clone(), metrics.udp.clone());
    metrics.unverified(options.pipeops.tls.insecure_skip_verify);
    let condition = context.health.condition("link");
    let links = Links {
        forwarder: Forwarder { bus: bus.clone(), tracer: context.tracer.clone(), metrics: metrics.clone(), tunnels },
        condition: condition.clone(),
        metrics: LinkMetrics::register(&context.meter, "pipeops_agent"),
        dialer,
        context,
        options,
    };
    let mut watches = JoinSet::new();
    let condition = links.context.health.condition("bus");
    watches.spawn(bus.clone().watch_status(move |state| condition.set(state)));
    let outcome = keep_linked(&links).await;
    links.forwarder.metrics.state(ConnectionState::Disconnected);
    watches.shutdown().await;
    bus.close().await;
    outcome
}

async fn keep_linked(links: &Links) -> anyhow::Result<()> {
    let metrics = &links.forwarder.metrics;
    let shutdown = &links.context.shutdown;
    let mut backoff = Backoff::new(&links.options.pipeops.reconnect);
    let mut registered_before = false;
    loop {
        metrics.state(if registered_before { ConnectionState::Reconnecting } else { ConnectionState::Connecting });
        let connect = async {
            let identity = identity(&links.forwarder.bus, |reason| links.condition.not_ready(reason)).await;
            links.connect(&identity).await
        };
        let connected = tokio::select! {
            connected = connect => connected,
            () = shutdown.cancelled() => return Ok(()),
        };
        let outcome = match connected {
            Ok(link) => {
                let begun = Instant::now();
                metrics.state(ConnectionState::Connected);
                if std::mem::replace(&mut registered_before, true) {
                    metrics.reconnected();
                }
                let outcome = link.serve().await;
                if begun.elapsed() >= STABLE {
                    backoff.reset();
                }
                outcome
            }
            Err(error) if error.is_refusal() && !registered_before => {
                return Err(error).context("the first registration was refused");
            }
            Err(error) => Err(error),
        };
        let Err(error) = outcome else { return Ok(()) };
        let wait = if error.is_refusal() { REFUSED_RETRY } else { backoff.next() };
        report(&error, wait, &links.condition);
        metrics.state(ConnectionState::Reconnecting);
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
