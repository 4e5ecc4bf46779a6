use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::Context as _;
use bus::Bus;
use kube::Client;
use runtime::Condition;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::lease::Candidate;
use crate::metrics::Metrics;
use crate::options::Options;
use crate::sync::{Syncer, Told};
use crate::{cluster, events, links};

/// Of one request; watches go on.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
const PROBE_RETRY: Duration = Duration::from_secs(2);

/// Keeps the control plane's routes as the cluster's objects wish until shutdown.
///
/// # Errors
/// When the bus's settings, or those of the API server, cannot be used.
pub async fn run(options: Options, context: runtime::Context) -> anyhow::Result<()> {
    let bus = Bus::connect(&options.bus, bus::Service::RouteSyncer).await.context("cannot use the bus")?;
    bus.register_metrics(&context.meter);
    let client = options.kubernetes.client("default", CONNECT_TIMEOUT).context("cannot use the API server")?;
    run_on(options, context, bus, client).await
}

/// [`run`] on a bus that is there already, with a client of the API server.
///
/// # Errors
/// None now.
pub async fn run_on(options: Options, context: runtime::Context, bus: Bus, client: Client) -> anyhow::Result<()> {
    let metrics = Metrics::register(&context.meter);
    let candidate = Candidate::new(bus.clone());
    let (wished, (new_links, links)) = (watch::Sender::new(None), watch::channel(0));
    let told = Arc::new(watch::Sender::new(Told::default()));
    let syncer = Syncer {
        bus: bus.clone(),
        wished: wished.subscribe(),
        links,
        told: Arc::clone(&told),
        refresh: options.routes.refresh_interval.get(),
        metrics: Arc::clone(&metrics),
    };
    let mut beside = JoinSet::new();
    let condition = context.health.condition("bus");
    beside.spawn(bus.clone().watch_status(move |state| condition.set(state)));
    beside.spawn(probe(client.clone(), context.health.condition("kubernetes")));
    // With warm caches, whoever leads.
    beside.spawn(cluster::follow(client.clone(), options.services.clone(), context.health.condition("watch"), wished));
    beside.spawn(links::follow(bus.clone(), new_links));
    beside.spawn(events::follow(client, candidate.name().to_owned(), told.subscribe()));
    tokio::select! {
        () = lead(&candidate, &syncer, &metrics) => {}
        () = context.shutdown.cancelled() => {}
    }
    beside.shutdown().await;
    if metrics.leading.load(Relaxed) == 1 {
        candidate.release().await;
    }
    bus.close().await;
    Ok(())
}

/// Never returns.
async fn lead(candidate: &Candidate, syncer: &Syncer, metrics: &Metrics) {
    loop {
        candidate.elected().await;
        metrics.leading.store(1, Relaxed);
        tracing::info!("leading: the control plane is told of this cluster's routes");
        tokio::select! {
            () = syncer.clone().lead() => {}
            holder = candidate.lost() => tracing::warn!(holder, "another instance leads now"),
        }
        metrics.leading.store(0, Relaxed);
    }
}

/// Whether the API server answers. Never returns.
async fn probe(client: Client, condition: Condition) {
    loop {
        let answer = timeout(CONNECT_TIMEOUT, client.apiserver_version()).await;
        let answer = answer.map_err(|_| format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()));
        let answer = answer.and_then(|version| version.map_err(|error| runtime::error_text(&error))).map(drop);
        let wait = if answer.is_ok() { PROBE_INTERVAL } else { PROBE_RETRY };
        condition.set(answer);
        sleep(wait).await;
    }
}
