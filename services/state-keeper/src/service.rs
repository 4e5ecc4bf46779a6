//! The run loop: answers on the bus, and looks at the state now and then.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bus::facts::{AskStateKeeper, Facts, NoError};
use bus::state::{
    AcquireLease, GetConfig, GetIdentity, GetLinkToken, ReleaseLease, SaveConfig, SaveLinkToken, SaveRegistration,
    StateError,
};
use bus::{Bus, Request, Service, Serving};
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;
use runtime::{Context, Health};
use tokio::task::JoinSet;

use crate::Options;
use crate::storage::Storage;
use crate::store::Store;

/// How soon the state is looked at again after it could not be read.
const RETRY: Duration = Duration::from_secs(1);

/// The state is never looked at more often, whatever the settings say.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

/// Runs state-keeper until the context's shutdown.
///
/// # Errors
/// When the bus's settings cannot be used. A bus or an API server that is away is a state, not an error.
pub async fn run(options: Options, context: Context) -> anyhow::Result<()> {
    let bus = Bus::connect(&options.bus, Service::StateKeeper).await.context("cannot use the bus")?;
    bus.register_metrics(&context.meter);
    run_on(options, context, bus).await
}

/// [`run`] on a bus that is there already.
///
/// # Errors
/// When the bus refuses to let this service answer, or the state file cannot be had: no key, another process.
pub async fn run_on(options: Options, context: Context, bus: Bus) -> anyhow::Result<()> {
    let started = Instant::now();
    let storage = Storage::open(&options).context("cannot keep the agent's state")?;
    let store = Arc::new(Store::new(storage, &options.state, options.agent.id.clone(), &context.health));

    let mut serving = Table { bus: &bus, store: &store, operations: Operations::new(&context), served: Vec::new() };
    serving.add("get_identity", |store, _: GetIdentity| async move { store.identity().await }).await?;
    serving.add("save_registration", |store, new: SaveRegistration| async move { store.save(new).await }).await?;
    serving.add("get_link_token", |store, _: GetLinkToken| async move { store.link_token().await }).await?;
    serving.add("save_link_token", |store, new: SaveLinkToken| async move { store.save_link_token(new).await }).await?;
    serving.add("get_config", |store, _: GetConfig| async move { store.config().await }).await?;
    serving.add("save_config", |store, new: SaveConfig| async move { store.save_config(new).await }).await?;
    serving.add("acquire_lease", |store, ask: AcquireLease| async move { store.acquire_lease(ask).await }).await?;
    serving.add("release_lease", |store, ask: ReleaseLease| async move { store.release_lease(ask).await }).await?;
    let (health, version) = (context.health.clone(), context.version);
    serving
        .add("ask_state_keeper", move |_, _: AskStateKeeper| std::future::ready(Ok(facts(&health, version, started))))
        .await?;
    let served = serving.served;

    let on_bus = context.health.condition("bus");
    tokio::select! {
        () = context.shutdown.cancelled() => {}
        () = bus.clone().watch_status(move |state| on_bus.set(state)) => {}
        () = look_at_state(&store, options.kubernetes.check_interval.get().max(SHORTEST_INTERVAL)) => {}
    }
    // What is being answered is finished; each operation has its own deadline.
    let mut stopping: JoinSet<()> = served.into_iter().map(Serving::stop).collect();
    while stopping.join_next().await.is_some() {}
    bus.close().await;
    Ok(())
}

/// What is served so far.
struct Table<'a> {
    bus: &'a Bus,
    store: &'a Arc<Store>,
    operations: Operations,
    served: Vec<Serving>,
}

impl Table<'_> {
    /// Answers each `R` by `handle`, and counts it as `operation`.
    async fn add<R, F, Fut>(&mut self, operation: &'static str, handle: F) -> anyhow::Result<()>
    where
        R: Request<Error: Outcome>,
        F: Fn(Arc<Store>, R) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R::Reply, R::Error>> + Send + 'static,
    {
        let (store, operations) = (Arc::clone(self.store), self.operations.clone());
        let handler = move |request: R| {
            let (operations, answer) = (operations.clone(), handle(Arc::clone(&store), request));
            async move { operations.counted(operation, answer.await) }
        };
        let serving = self.bus.serve(handler).await;
        self.served.push(serving.with_context(|| format!("cannot serve {operation}"))?);
        Ok(())
    }
}

fn facts(health: &Health, version: &str, started: Instant) -> Facts {
    Facts {
        version: version.to_owned(),
        uptime_seconds: started.elapsed().as_secs(),
        ready: health.is_ready(),
        not_ready: health.not_ready(),
        cluster: None,
    }
}

/// Reads the state every `interval`, sooner while it cannot be read; the store keeps its conditions. Never returns.
async fn look_at_state(store: &Store, interval: Duration) {
    loop {
        let wait = match store.check().await {
            Ok(()) => interval,
            Err(_) => RETRY.min(interval),
        };
        tokio::time::sleep(wait).await;
    }
}

/// Counts what was asked and how it ended.
#[derive(Clone, Debug)]
struct Operations(Counter<u64>);

impl Operations {
    fn new(context: &Context) -> Self {
        let counter = context.meter.u64_counter("pipeops_agent_state_operations");
        Self(counter.with_description("Requests to state-keeper, by operation and outcome").build())
    }

    fn counted<T, E: Outcome>(&self, operation: &'static str, outcome: Result<T, E>) -> Result<T, E> {
        let result = outcome.as_ref().err().map_or("ok", Outcome::label);
        if let Err(error) = &outcome {
            tracing::warn!(operation, %error, "request failed");
        }
        self.0.add(1, &[KeyValue::new("operation", operation), KeyValue::new("outcome", result)]);
        outcome
    }
}

/// How a request ended that was not answered, as a metric's label.
trait Outcome: std::fmt::Display + Send {
    fn label(&self) -> &'static str;
}

impl Outcome for StateError {
    fn label(&self) -> &'static str {
        match self {
            Self::Unavailable { .. } => "unavailable",
            Self::Corrupt { .. } => "corrupt",
            Self::OtherCluster { .. } => "other_cluster",
            Self::Invalid { .. } => "invalid",
        }
    }
}

impl Outcome for NoError {
    fn label(&self) -> &'static str {
        match *self {}
    }
}
