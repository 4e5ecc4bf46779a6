//! The executor between a bus and an API server: what it takes before it knows what may run, what it refuses in whose
//! name, and what it says of itself.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod api;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use api::Api;
use bus::facts::{AskProxyExecutor, CheckProxyPolicy};
use bus::state::{GetConfig, StateError, StoredConfig};
use bus::{Bus, LocalBus, OpenHeader, Service, Serving};
use bytes::Bytes;
use protocol::config::ProxyPolicy;
use protocol::{ClusterConfig, StreamKind};
use proxy_executor::{Options, Policy, RbacMode, run_on};
use runtime::Context;
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinHandle;
use tokio::time::sleep;

const SOON: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(20);
const PODS: &str = "/api/v1/namespaces/a/pods";

/// An executor, the API server behind it, and the bus before it.
struct Stage {
    api: Api,
    local: LocalBus,
    link: Bus,
    context: Context,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Stage {
    async fn start(policy: Policy) -> Self {
        let api = Api::start().await;
        let mut options = Options { policy, ..Options::default() };
        options.kubernetes.server.api_url = Some(api.url());
        options.rbac.mode = RbacMode::Impersonate;
        let (local, context) = (LocalBus::new(), Context::detached("proxy-executor"));
        let task = tokio::spawn(run_on(
            options,
            context.clone(),
            local.bus(Service::ProxyExecutor),
            targets::Names::dns(None),
        ));
        let link = local.bus(Service::GatewayLink);
        Self { api, local, link, context, task }
    }

    /// The status line and the body of the answer, or why there is none.
    async fn send(&self, method: &str, target: &str) -> Result<String, String> {
        let request =
            format!("{method} {target} HTTP/1.1\r\nhost: x\r\nx-pipeops-user: ana\r\nconnection: close\r\n\r\n");
        let stream = self.link.open(StreamKind::Kube, OpenHeader::default(), Bytes::from(request)).await;
        let mut answer = String::new();
        stream.map_err(|e| e.to_string())?.read_to_string(&mut answer).await.map_err(|e| e.to_string())?;
        Ok(answer)
    }

    /// Sends until the answer is one that holds all of `expected`.
    async fn wait_for(&self, method: &str, target: &str, expected: &[&str]) {
        let limit = Instant::now() + SOON;
        loop {
            let answer = self.send(method, target).await;
            if answer.as_ref().is_ok_and(|answer| expected.iter().all(|part| answer.contains(part))) {
                return;
            }
            assert!(Instant::now() < limit, "{method} {target} is answered by {answer:?}, expected {expected:?}");
            sleep(PAUSE).await;
        }
    }

    async fn stop(self) {
        self.context.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }
}

/// A state-keeper that answers what it is told to.
struct Keeper {
    answer: Arc<Mutex<Result<StoredConfig, StateError>>>,
    _serving: Serving,
}

impl Keeper {
    async fn start(stage: &Stage, answer: Result<StoredConfig, StateError>) -> Self {
        let answer = Arc::new(Mutex::new(answer));
        let handler = {
            let answer = Arc::clone(&answer);
            move |_: GetConfig| std::future::ready(answer.lock().unwrap().clone())
        };
        let serving = stage.local.bus(Service::StateKeeper).serve(handler).await.unwrap();
        Self { answer, _serving: serving }
    }

    fn says(&self, policy: ProxyPolicy) {
        *self.answer.lock().unwrap() = Ok(pushed(policy));
    }
}

fn pushed(policy: ProxyPolicy) -> StoredConfig {
    StoredConfig { config: Some(ClusterConfig { proxy: Some(policy), ..ClusterConfig::default() }) }
}

fn namespaces(names: &[&str]) -> Option<Vec<String>> {
    Some(names.iter().map(ToString::to_string).collect())
}

#[tokio::test]
async fn no_request_is_taken_before_it_is_known_what_may_run() {
    let stage = Stage::start(Policy::default()).await;
    let corrupt = Err(StateError::Corrupt { reason: "cluster_config is broken".into() });
    let keeper = Keeper::start(&stage, corrupt).await;
    let limit = Instant::now() + SOON;
    while !stage.context.health.not_ready().iter().any(|why| why.starts_with("config: ") && why.contains("is broken")) {
        assert!(Instant::now() < limit, "{:?}", stage.context.health);
        sleep(PAUSE).await;
    }
    assert!(stage.send("GET", PODS).await.is_err(), "somebody took a request");
    assert!(stage.link.request(&AskProxyExecutor {}).await.is_ok_and(|facts| !facts.ready));

    *keeper.answer.lock().unwrap() = Ok(StoredConfig::default());
    stage.wait_for("GET", PODS, &["200 OK", "impersonate-user: ana"]).await;
    assert!(
        !stage.context.health.not_ready().iter().any(|why| why.starts_with("config")),
        "{:?}",
        stage.context.health
    );
    stage.stop().await;
}

#[tokio::test]
async fn it_stops_also_while_it_waits() {
    let stage = Stage::start(Policy::default()).await;
    let limit = Instant::now() + SOON;
    while stage.link.request(&AskProxyExecutor {}).await.is_err() {
        assert!(Instant::now() < limit, "it does not answer");
        sleep(PAUSE).await;
    }
    stage.stop().await;
}

#[tokio::test]
async fn the_control_planes_policy_follows_and_outlives_state_keeper() {
    let stage = Stage::start(Policy { namespaces: namespaces(&["a", "b"]), ..Policy::default() }).await;
    let keeper = Keeper::start(&stage, Ok(StoredConfig::default())).await;
    stage.wait_for("DELETE", PODS, &["200 OK"]).await;
    stage
        .wait_for("GET", "/api/v1/namespaces/c/pods", &["403 Forbidden", "\"kind\":\"Status\"", "the cluster's owner"])
        .await;

    keeper.says(ProxyPolicy { read_only: true, namespaces: namespaces(&["a", "c"]), ..ProxyPolicy::default() });
    stage.wait_for("DELETE", PODS, &["403 Forbidden", "the control plane allows reading only"]).await;
    stage.wait_for("GET", PODS, &["200 OK"]).await;
    stage
        .wait_for("GET", "/api/v1/namespaces/b/pods", &["403", "the control plane allows only the namespaces a, c"])
        .await;
    stage.wait_for("GET", "/api/v1/namespaces/c/pods", &["403", "the cluster's owner"]).await;
    let before = stage.api.requests();
    stage.wait_for("GET", "/api/v1/namespaces/a/pods/p/%65xec", &["403"]).await;
    stage.wait_for("GET", "/api/v1/namespaces/a//pods", &["403", "in several ways"]).await;
    assert_eq!(stage.api.requests(), before, "a refused request was sent");

    drop(keeper);
    let keeper = Keeper::start(&stage, Err(StateError::Unavailable { reason: "away".into() })).await;
    stage.wait_for("DELETE", PODS, &["403"]).await;
    keeper.says(ProxyPolicy::default());
    stage.wait_for("DELETE", PODS, &["200 OK"]).await;
    stage.stop().await;
}

#[tokio::test]
async fn a_wish_is_told_what_the_owner_leaves_of_it() {
    let stage = Stage::start(Policy { namespaces: namespaces(&["a", "b"]), ..Policy::default() }).await;
    let limit = Instant::now() + SOON;
    let wish = CheckProxyPolicy { policy: ProxyPolicy { read_only: true, ..ProxyPolicy::default() } };
    let verdict = loop {
        match stage.link.request(&wish).await {
            Ok(verdict) => break verdict,
            Err(error) => assert!(Instant::now() < limit, "{error}"),
        }
        sleep(PAUSE).await;
    };
    let [refused] = verdict.refused.as_slice() else { panic!("{verdict:?}") };
    assert_eq!(refused.setting, "proxy.namespaces");
    assert_eq!(refused.reason, "the cluster's owner allows only a, b");
    assert!(verdict.pending, "nobody has said yet that this is wished for");
    let _keeper = Keeper::start(&stage, Ok(pushed(wish.policy.clone()))).await;
    while stage.link.request(&wish).await.unwrap().pending {
        assert!(Instant::now() < limit, "it does not get in force");
        sleep(PAUSE).await;
    }
    assert!(stage.send("DELETE", PODS).await.unwrap().contains("403"));
    stage.stop().await;
}

#[tokio::test]
async fn nodes_and_pods_are_counted_where_that_is_allowed() {
    for (may_list_nodes, nodes) in [(true, Some(3)), (false, None)] {
        let stage = Stage::start(Policy::default()).await;
        stage.api.may_list_nodes(may_list_nodes);
        let limit = Instant::now() + SOON;
        let cluster = loop {
            if let Ok(facts) = stage.link.request(&AskProxyExecutor {}).await
                && let Some(cluster) = facts.cluster
            {
                break cluster;
            }
            assert!(Instant::now() < limit, "nothing is seen of the cluster");
            sleep(PAUSE).await;
        };
        assert_eq!((cluster.k8s_version.as_str(), cluster.nodes, cluster.pods), ("v1.36.3", nodes, Some(1)));
        assert!(cluster.age_seconds < 30);
        stage.stop().await;
    }
}

#[tokio::test]
async fn a_policy_that_cannot_be_meant_ends_it_at_the_start() {
    let stage = Stage::start(Policy { verbs: Some(vec!["lst".into()]), ..Policy::default() }).await;
    let error = stage.task.await.unwrap().unwrap_err();
    assert!(format!("{error:#}").contains("policy.verbs names \"lst\""), "{error:#}");
}
