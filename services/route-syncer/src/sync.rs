//! Telling the control plane what is wished for, until it is no other.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bus::routes::{CallError, SyncRoutes, SyncedRoutes, UnregisterRoute};
use bus::{Bus, RequestError};
use protocol::route::{RouteAnswer, RouteSync, Unregister};
use runtime::Backoff;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::metrics::Metrics;
use crate::rules::Wished;

const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// What the control plane has made of the routes, as far as it is known.
#[derive(Clone, Debug, Default)]
pub enum Outcome {
    #[default]
    Unknown,
    /// Of all of them.
    Refused(String),
    /// None from a control plane that does not say what became of each.
    Taken(Option<RouteAnswer>),
}

/// What there is to tell the cluster.
#[derive(Clone, Debug, Default)]
pub struct Told {
    pub wished: Arc<Wished>,
    pub outcome: Outcome,
}

/// Everything that syncing needs, whoever leads.
#[derive(Clone, Debug)]
pub struct Syncer {
    pub bus: Bus,
    pub wished: watch::Receiver<Option<Arc<Wished>>>,
    /// Counts new links.
    pub links: watch::Receiver<u64>,
    pub told: Arc<watch::Sender<Told>>,
    pub refresh: Duration,
    pub metrics: Arc<Metrics>,
}

/// What is known while this instance leads. What another has told meanwhile is not.
#[derive(Debug, Default)]
struct Known {
    /// The last set that was taken, and its hostnames.
    sync: RouteSync,
    hosts: BTreeSet<String>,
    /// Those that are no more, and that the control plane may still have.
    stale: BTreeSet<String>,
}

impl Syncer {
    /// Tells everything at once, then whenever it changes, after each new link, and now and then; what fails is tried again for
    /// ever. Returns when nothing can be wished for any more.
    pub async fn lead(mut self) {
        let mut known = Known::default();
        let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
        if self.wished.wait_for(Option::is_some).await.is_err() {
            return;
        }
        loop {
            self.links.mark_unchanged();
            let Some(wished) = self.wished.borrow_and_update().clone() else { return };
            let told = self.tell(&wished, &mut known).await;
            let wait = match &told {
                Ok(()) => {
                    backoff.reset();
                    self.refresh
                }
                Err(error) => {
                    self.metrics.failures.fetch_add(1, Relaxed);
                    let wait = backoff.wait();
                    tracing::warn!(%error, retry_in = ?wait, "the control plane does not have this cluster's routes");
                    wait
                }
            };
            let next = Instant::now() + wait;
            loop {
                tokio::select! {
                    () = sleep_until(next) => break,
                    Ok(()) = self.links.changed() => {
                        backoff.reset();
                        break;
                    }
                    changed = self.wished.changed() => if changed.is_err() {
                        return;
                    },
                }
                let Some(wished) = self.wished.borrow_and_update().clone() else { return };
                if told.is_err() || known.sync != wished.sync {
                    break;
                }
                // What is to be reached is as it was; only what is not has changed.
                self.told.send_modify(|told| told.wished = wished);
            }
            self.metrics.retries.fetch_add(u64::from(told.is_err()), Relaxed);
        }
    }

    async fn tell(&self, wished: &Arc<Wished>, known: &mut Known) -> Result<(), RequestError<CallError>> {
        let routes = wished.sync.ingresses.iter().flat_map(|ingress| &ingress.rules).map(|rule| rule.paths.len()).sum();
        let skipped = wished.skipped.values().map(Vec::len).sum();
        self.metrics.wished.store(count(routes), Relaxed);
        self.metrics.skipped.store(count(skipped), Relaxed);
        let answered = self.bus.request(&SyncRoutes { sync: wished.sync.clone() }).await;
        let outcome = match &answered {
            Ok(SyncedRoutes { answer }) => Outcome::Taken(answer.clone()),
            Err(RequestError::Typed(error @ CallError::Refused { .. })) => Outcome::Refused(error.to_string()),
            Err(_) => Outcome::Unknown,
        };
        self.told.send_replace(Told { wished: Arc::clone(wished), outcome });
        let SyncedRoutes { answer } = answered?;
        self.metrics.success.fetch_add(1, Relaxed);
        let refused = answer.as_ref().map_or(0, |answer| answer.rejected.len());
        self.metrics.refused.store(count(refused), Relaxed);
        tracing::info!(routes, refused, skipped, "the control plane has this cluster's routes");

        let rules = wished.sync.ingresses.iter().flat_map(|ingress| &ingress.rules);
        let hosts: BTreeSet<String> = rules.map(|rule| rule.host.clone()).collect();
        if answer.is_some() {
            // What is not in the set is gone there.
            known.stale.clear();
        } else {
            known.stale.append(&mut known.hosts);
            known.stale.retain(|host| !hosts.contains(host));
        }
        known.hosts = hosts;
        known.sync.clone_from(&wished.sync);
        while let Some(hostname) = known.stale.first().cloned() {
            self.bus.request(&UnregisterRoute { route: Unregister { hostname: hostname.clone() } }).await?;
            tracing::info!(hostname, "unregistered");
            known.stale.remove(&hostname);
        }
        Ok(())
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
