//! The run loop: answers on the bus, and looks at the state now and then.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bus::state::{GetIdentity, SaveRegistration, StateError};
use bus::{Bus, Service};
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;
use runtime::Context;

use crate::Options;
use crate::access::Access;
use crate::objects::Objects;
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
/// When the bus refuses to let this service answer.
pub async fn run_on(options: Options, context: Context, bus: Bus) -> anyhow::Result<()> {
    let namespace = options.state.namespace();
    tracing::info!(
        namespace,
        config_map = options.state.configmap_name,
        secret = options.state.secret_name,
        "keeping the agent's state"
    );
    let objects = Objects::new(Access::new(options.kubernetes.clone(), namespace), options.kubernetes.timeout.get());
    let store = Arc::new(Store::new(objects, &options.state, options.agent.id.clone(), &context.health));
    let operations = Operations::new(&context);

    let get = {
        let (store, operations) = (Arc::clone(&store), operations.clone());
        move |_: GetIdentity| {
            let (store, operations) = (Arc::clone(&store), operations.clone());
            async move { operations.counted("get_identity", store.identity().await) }
        }
    };
    let save = {
        let (store, operations) = (Arc::clone(&store), operations.clone());
        move |registration: SaveRegistration| {
            let (store, operations) = (Arc::clone(&store), operations.clone());
            async move { operations.counted("save_registration", store.save(registration).await) }
        }
    };
    let serving_get = bus.serve(get).await.context("cannot serve the identity")?;
    let serving_save = bus.serve(save).await.context("cannot serve registrations")?;

    let on_bus = context.health.condition("bus");
    tokio::select! {
        () = context.shutdown.cancelled() => {}
        () = bus.clone().watch_status(move |state| on_bus.set(state)) => {}
        () = look_at_state(&store, options.kubernetes.check_interval.get().max(SHORTEST_INTERVAL)) => {}
    }
    // What is being answered is finished; each operation has its own deadline.
    tokio::join!(serving_get.stop(), serving_save.stop());
    bus.close().await;
    Ok(())
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

    fn counted<T>(&self, operation: &'static str, outcome: Result<T, StateError>) -> Result<T, StateError> {
        let result = match &outcome {
            Ok(_) => "ok",
            Err(StateError::Unavailable { .. }) => "unavailable",
            Err(StateError::Corrupt { .. }) => "corrupt",
            Err(StateError::OtherCluster { .. }) => "other_cluster",
        };
        if let Err(error) = &outcome {
            tracing::warn!(operation, %error, "request failed");
        }
        self.0.add(1, &[KeyValue::new("operation", operation), KeyValue::new("outcome", result)]);
        outcome
    }
}
