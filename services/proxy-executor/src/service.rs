use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use bus::{Bus, BusStream, OpenHeader, Serving};
use exchange::{BoxError, Incoming, Reply, Settings, UpgradeSlot};
use http::Request;
use protocol::StreamKind;
use runtime::{Condition, error_text};
use targets::Names;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::execute::Executor;
use crate::facts::Seen;
use crate::metrics::Metrics;
use crate::options::Options;
use crate::policy::Limits;
use crate::services::Services;
use crate::upstream::{Credentials, Upstream};
use crate::{answers, config};

const PROBE_INTERVAL: Duration = Duration::from_secs(5);
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves streams from the bus until shutdown, then lets those under way finish.
pub async fn run(options: Options, context: runtime::Context) -> anyhow::Result<()> {
    let bus = Bus::connect(&options.bus, bus::Service::ProxyExecutor).await.context("cannot use the bus")?;
    let names = Names::dns(options.services.cluster_domain.as_deref());
    bus.register_metrics(&context.meter);
    run_on(options, context, bus, names).await
}

/// [`run`] on a bus that is there already, with Services that have these names.
pub async fn run_on(options: Options, context: runtime::Context, bus: Bus, names: Names) -> anyhow::Result<()> {
    let executor = Arc::new(Executor {
        upstream: Upstream::new(&options.kubernetes)?,
        rbac: options.rbac.mode,
        policy: options.policy.clone(),
        limits: Arc::new(Limits::of(&options.policy).context("the owner's policy cannot be used")?),
        tracer: context.tracer.clone(),
        metrics: Metrics::register(&context.meter),
    });
    let services = Arc::new(Services {
        options: options.services.clone(),
        names,
        limits: Arc::clone(&executor.limits),
        tls: OnceLock::new(),
        tracer: context.tracer.clone(),
        metrics: Arc::clone(&executor.metrics),
    });
    let mut watches = JoinSet::new();
    let condition = context.health.condition("bus");
    watches.spawn(bus.clone().watch_status(move |state| condition.set(state)));
    watches.spawn(watch_api(Arc::clone(&executor), context.health.condition("kubernetes")));

    watches.spawn(config::follow(bus.clone(), Arc::clone(&executor.limits), context.health.condition("config")));
    let seen = Arc::new(Seen::new(&context));
    watches.spawn(watch_cluster(Arc::clone(&executor), Arc::clone(&seen)));
    let answering = answers::serve(&bus, &executor.limits, &seen).await?;

    // No request is taken before it is known what may run.
    tokio::select! {
        () = executor.limits.known() => {}
        () = context.shutdown.cancelled() => {
            close(bus, watches, answering).await;
            return Ok(());
        }
    }
    let mut listener = bus.listen(StreamKind::Kube).await.context("cannot serve proxied requests")?;
    let mut http = bus.listen(StreamKind::Http).await.context("cannot serve requests for Services")?;
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            accepted = http.accept() => match accepted {
                Some((header, stream)) => {
                    let stop = context.shutdown.clone().cancelled_owned();
                    streams.spawn(Arc::clone(&services).serve(header, stream, Settings::default(), stop));
                }
                None => anyhow::bail!("the bus stopped delivering requests for Services"),
            },
            accepted = listener.accept() => match accepted {
                Some((header, stream)) => {
                    let stop = context.shutdown.clone().cancelled_owned();
                    streams.spawn(serve_stream(Arc::clone(&executor), header, stream, Settings::default(), stop));
                }
                None => anyhow::bail!("the bus stopped delivering requests"),
            },
            Some(_finished) = streams.join_next(), if !streams.is_empty() => {}
            () = context.shutdown.cancelled() => break,
        }
    }
    listener.drain().await;
    http.drain().await;
    // What was on its way already is answered, and its stream is not kept for another request.
    let last = Settings { keep_alive: false, ..Settings::default() };
    while let Some((header, stream)) = listener.accept().await {
        streams.spawn(serve_stream(Arc::clone(&executor), header, stream, last, std::future::pending()));
    }
    while let Some((header, stream)) = http.accept().await {
        streams.spawn(Arc::clone(&services).serve(header, stream, last, std::future::pending()));
    }
    tracing::info!(streams = streams.len(), "draining");
    let drained = async { while streams.join_next().await.is_some() {} };
    if timeout(options.common.drain_timeout(), drained).await.is_err() {
        // Watches end only when somebody ends them; their clients begin anew, on another instance.
        tracing::info!(streams = streams.len(), "cutting what is left");
        streams.shutdown().await;
    }
    close(bus, watches, answering).await;
    Ok(())
}

async fn close(bus: Bus, mut watches: JoinSet<()>, answering: [Serving; 2]) {
    watches.shutdown().await;
    for answers in answering {
        answers.stop().await;
    }
    bus.close().await;
}

async fn serve_stream(
    executor: Arc<Executor>,
    header: OpenHeader,
    stream: BusStream,
    settings: Settings,
    stop: impl Future<Output = ()>,
) {
    let slot = UpgradeSlot::new();
    let parent = header.traceparent;
    let service = {
        let (executor, slot) = (Arc::clone(&executor), slot.clone());
        move |request| {
            let (executor, slot) = (Arc::clone(&executor), slot.clone());
            async move { executor.execute(request, &slot, parent.as_ref()).await }
        }
    };
    let ended = match exchange::serve(settings, stream, slot, stop, service).await {
        // Boxed: the many requests that are no sessions need not carry its state.
        Ok(Some((client, upstream))) => Box::pin(duplex::relay(client, upstream, |_| {})).await.map_err(BoxError::from),
        Ok(None) => Ok(()),
        Err(error) => Err(error.into()),
    };
    if let Err(error) = ended {
        tracing::debug!(stream = header.id, error = error_text(&*error), "stream ended early");
    }
}

/// Asks the API server whether it is ready, the way a proxied request would, and empties the pool of dead connections.
async fn watch_api(executor: Arc<Executor>, condition: Condition) {
    let mut ticks = interval(PROBE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        executor.upstream.sweep();
        let answer = timeout(PROBE_TIMEOUT, probe(&executor)).await;
        condition
            .set(answer.unwrap_or_else(|_| Err(format!("API server gave no answer in {} s", PROBE_TIMEOUT.as_secs()))));
    }
}

/// Looks at the cluster for those who ask.
async fn watch_cluster(executor: Arc<Executor>, seen: Arc<Seen>) {
    seen.follow(&executor.upstream).await;
}

async fn probe(executor: &Executor) -> Result<(), String> {
    let request = Request::get("/readyz").body(Incoming::empty()).map_err(|e| e.to_string())?;
    match executor.upstream.send(request, Credentials::Own).await {
        Ok(Reply::Response(response)) => {
            // Reading to the end gives the connection back to the pool.
            let status = response.status();
            let _text = http_body_util::BodyExt::collect(response.into_body()).await.map_err(|e| e.to_string())?;
            if status.is_success() { Ok(()) } else { Err(format!("API server answers /readyz with {status}")) }
        }
        Ok(Reply::Upgraded(..)) => Err("API server answers /readyz with an upgrade".to_owned()),
        Err(error) => Err(error_text(&error)),
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::WaitForCancellationFutureOwned;

    use super::*;

    /// What each idle watch costs beside the stream itself and its connection to the API server.
    #[test]
    fn the_task_of_a_stream_is_small() {
        fn size<A, B, C, D, F>(_: fn(A, B, C, D, WaitForCancellationFutureOwned) -> F) -> usize {
            size_of::<F>()
        }
        assert!(size(serve_stream) <= 3584, "{} bytes", size(serve_stream));
    }
}
