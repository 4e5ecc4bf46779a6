//! What this executor sees of the cluster, with its own ServiceAccount's rights, for heartbeats and diagnostics.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bus::facts::{ClusterFacts, Facts};
use exchange::{Incoming, Reply};
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use runtime::{Context, Health, error_text};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use tokio::time::{sleep, timeout};

use crate::upstream::{Credentials, Upstream};

const INTERVAL: Duration = Duration::from_secs(30);
/// Before anything was seen.
const FIRST_INTERVAL: Duration = Duration::from_secs(2);
/// One look: three requests.
const TIMEOUT: Duration = Duration::from_secs(10);
/// An answer is one object's metadata; more is not read.
const LARGEST: usize = 1 << 20;
/// Of a list only what it takes to count it.
const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

/// What is known of the cluster, and of this process.
#[derive(Debug)]
pub struct Seen {
    started: Instant,
    version: &'static str,
    health: Health,
    cluster: Mutex<Option<(Instant, ClusterFacts)>>,
}

impl Seen {
    pub fn new(context: &Context) -> Self {
        let (version, health) = (context.version, context.health.clone());
        Self { started: Instant::now(), version, health, cluster: Mutex::default() }
    }

    pub fn facts(&self) -> Facts {
        let cluster = self.cluster().clone();
        Facts {
            version: self.version.to_owned(),
            uptime_seconds: self.started.elapsed().as_secs(),
            ready: self.health.is_ready(),
            not_ready: self.health.not_ready(),
            cluster: cluster.map(|(at, facts)| ClusterFacts { age_seconds: at.elapsed().as_secs(), ..facts }),
        }
    }

    /// Looks at the cluster now and then. Never returns.
    pub async fn follow(&self, upstream: &Upstream) {
        let mut said = Said::default();
        loop {
            let looked = timeout(TIMEOUT, look(upstream)).await;
            let looked = looked.unwrap_or_else(|_| Err(format!("no answer within {} s", TIMEOUT.as_secs())));
            said.of(&looked);
            if let Ok(facts) = looked {
                *self.cluster() = Some((Instant::now(), facts));
            }
            let seen = self.cluster().is_some();
            sleep(if seen { INTERVAL } else { FIRST_INTERVAL }).await;
        }
    }

    fn cluster(&self) -> MutexGuard<'_, Option<(Instant, ClusterFacts)>> {
        self.cluster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the log says once, and again only after it was otherwise.
#[derive(Debug, Default)]
struct Said {
    failing: bool,
    uncounted: bool,
}

impl Said {
    fn of(&mut self, looked: &Result<ClusterFacts, String>) {
        match looked {
            Err(error) => {
                if !self.failing {
                    tracing::warn!(error, "cannot look at the cluster; what was seen last counts");
                }
                self.failing = true;
            }
            Ok(facts) => {
                let uncounted = facts.nodes.is_none() || facts.pods.is_none();
                if uncounted && !self.uncounted {
                    tracing::info!(
                        nodes = facts.nodes,
                        pods = facts.pods,
                        "nodes or pods are not counted: this ServiceAccount may not list them"
                    );
                }
                (self.failing, self.uncounted) = (false, uncounted);
            }
        }
    }
}

async fn look(upstream: &Upstream) -> Result<ClusterFacts, String> {
    let version: Option<Version> = get(upstream, "/version").await?;
    let version = version.ok_or("the API server does not say its version to this ServiceAccount")?;
    let nodes = count(upstream, "/api/v1/nodes?limit=1").await?;
    let pods = count(upstream, "/api/v1/pods?limit=1").await?;
    Ok(ClusterFacts { k8s_version: version.git_version, nodes, pods, age_seconds: 0 })
}

/// None when it may not be listed, or the API server does not count.
async fn count(upstream: &Upstream, target: &'static str) -> Result<Option<u64>, String> {
    let list: Option<List> = get(upstream, target).await?;
    Ok(list.and_then(|list| list.total()))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    git_version: String,
}

/// The first page of a list.
#[derive(Debug, Deserialize)]
struct List {
    #[serde(default)]
    metadata: ListMetadata,
    /// Null where there are none.
    items: Option<Vec<IgnoredAny>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ListMetadata {
    r#continue: String,
    remaining_item_count: Option<u64>,
}

impl List {
    fn total(&self) -> Option<u64> {
        let here = u64::try_from(self.items.as_ref().map_or(0, Vec::len)).ok()?;
        match (self.metadata.remaining_item_count, self.metadata.r#continue.is_empty()) {
            (Some(more), _) => here.checked_add(more),
            (None, true) => Some(here),
            (None, false) => None,
        }
    }
}

/// None for a 403.
async fn get<T: DeserializeOwned>(upstream: &Upstream, target: &'static str) -> Result<Option<T>, String> {
    let request = Request::get(target).header(header::ACCEPT, METADATA_ONLY).body(Incoming::empty());
    let response = match upstream.send(request.map_err(|e| e.to_string())?, Credentials::Own).await {
        Ok(Reply::Response(response)) => response,
        Ok(Reply::Upgraded(..)) => return Err(format!("the API server answers {target} with an upgrade")),
        Err(error) => return Err(error_text(&error)),
    };
    let status = response.status();
    // Reading to the end gives the connection back to the pool.
    let body = Limited::new(response.into_body(), LARGEST).collect().await;
    let body = body.map_err(|e| format!("the answer to {target} cannot be read: {e}"))?.to_bytes();
    match status {
        StatusCode::FORBIDDEN => Ok(None),
        StatusCode::UNAUTHORIZED => {
            upstream.credentials_refused();
            Err(format!("the API server refused the agent's own credentials for {target} (401)"))
        }
        status if status.is_success() => serde_json::from_slice(&body)
            .map(Some)
            .map_err(|e| format!("the answer to {target} is not what it should be: {e}")),
        status => Err(format!("the API server answers {target} with {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_counted_by_its_first_page() {
        let total = |text: &str| serde_json::from_str::<List>(text).unwrap().total();
        assert_eq!(
            total(r#"{"metadata":{"continue":"x","remainingItemCount":41},"items":[{"metadata":{}}]}"#),
            Some(42)
        );
        assert_eq!(total(r#"{"metadata":{"resourceVersion":"1"},"items":[{}]}"#), Some(1));
        assert_eq!(total(r#"{"metadata":{},"items":[]}"#), Some(0));
        assert_eq!(total(r#"{"metadata":{"resourceVersion":"1"},"items":null}"#), Some(0));
        assert_eq!(total(r#"{"metadata":{"continue":"x"},"items":[{}]}"#), None);
    }
}
