//! proxy-executor against a real API server, with exactly the rights that the chart gives it: what a policy refuses stays out of reach
//! however it is written, and the cluster is counted.

use anyhow::{Context as _, Result, bail, ensure};
use bus::{
    Bus, LocalBus, OpenHeader, Service, Serving,
    facts::{AskProxyExecutor, ClusterFacts},
    state::{GetConfig, StoredConfig},
};
use e2e::place::Place;
use lab::{Lab, Options, until};
use protocol::StreamKind;
use proxy_executor::Policy;
use runtime::Context;
use std::time::Duration;
use tokio::{io::AsyncReadExt as _, task::JoinHandle};

const SOON: Duration = Duration::from_secs(30);
/// What only a request that got past the policy shows.
const HIDDEN: &str = "not-for-everybody";

/// A proxy-executor in this process, on a bus of its own.
struct Executor {
    link: Bus,
    context: Context,
    task: JoinHandle<Result<()>>,
    _keeper: Serving,
}

impl Executor {
    async fn start(lab: &Lab, place: &Place, policy: Policy) -> Result<Self> {
        runtime::tls::install_provider();
        let mut options = proxy_executor::Options { policy, ..proxy_executor::Options::default() };
        options.kubernetes.server.api_url = Some(lab.api_url().to_owned());
        options.kubernetes.server.ca_file.clone_from(&place.ca_file);
        options.kubernetes.server.token_file.clone_from(&place.token_file);
        let local = LocalBus::new();
        let keeper = local.bus(Service::StateKeeper);
        let keeper = keeper.serve(|_: GetConfig| std::future::ready(Ok(StoredConfig::default()))).await?;
        let context = Context::detached("proxy-executor");
        let task = tokio::spawn(proxy_executor::run_on(
            options,
            context.clone(),
            local.bus(Service::ProxyExecutor),
            targets::Names::dns(None),
        ));
        let executor = Self { link: local.bus(Service::GatewayLink), context, task, _keeper: keeper };
        until("proxy-executor to take requests", SOON, || executor.get("/version")).await?;
        Ok(executor)
    }

    /// The whole answer to a GET by ana.
    async fn get(&self, target: &str) -> Result<String> {
        let request = format!("GET {target} HTTP/1.1\r\nhost: x\r\nx-pipeops-user: ana\r\nconnection: close\r\n\r\n");
        let mut stream = self.link.open(StreamKind::Kube, OpenHeader::default(), request.into()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    async fn cluster(&self) -> Result<ClusterFacts> {
        until("the cluster to be seen", SOON, || async {
            self.link.request(&AskProxyExecutor {}).await?.cluster.context("it was not looked at yet")
        })
        .await
    }

    async fn stop(self) -> Result<()> {
        self.context.shutdown.cancel();
        self.task.await?
    }
}

async fn lab() -> Result<Lab> {
    let lab = Lab::start(Options { services: false, ..Options::default() }).await?;
    let binding = ["create", "clusterrolebinding", "ana", "--clusterrole=cluster-admin", "--user=ana"];
    lab.admin().stdout(&binding).await?;
    Ok(lab)
}

#[tokio::test]
async fn what_a_policy_refuses_is_out_of_reach_however_it_is_written() -> Result<()> {
    let lab = lab().await?;
    let place = Place::prepare(&lab, "proxy-executor", "policy", &[]).await?;
    for namespace in ["open", "shut"] {
        lab.admin().stdout(&["create", "namespace", namespace]).await?;
        let literal = format!("--from-literal=x={}", if namespace == "shut" { HIDDEN } else { "for-all" });
        lab.admin().stdout(&["create", "configmap", "it", &literal, "-n", namespace]).await?;
    }
    let plain = "/api/v1/namespaces/shut/configmaps/it";

    let executor = Executor::start(&lab, &place, Policy::default()).await?;
    ensure!(executor.get(plain).await?.contains(HIDDEN), "the path is not the one that shows it");
    executor.stop().await?;

    let policy = Policy { namespaces: Some(vec!["open".into()]), read_only: true, ..Policy::default() };
    let executor = Executor::start(&lab, &place, policy).await?;
    for target in [
        "/api/v1/namespaces/open/configmaps/it",
        "/api/v1/namespaces/open/configmaps",
        "/api/v1/namespaces/op%65n/configmaps/it",
    ] {
        let answer = executor.get(target).await?;
        ensure!(answer.starts_with("HTTP/1.1 200") && answer.contains("for-all"), "{target}: {answer}");
    }
    let mut written = vec![
        plain.to_owned(),
        "/api/v1/configmaps".to_owned(),
        "/api/v1/configmaps?fieldSelector=metadata.namespace%3Dopen".to_owned(),
        "/api/v1/namespaces/shut/configmaps".to_owned(),
        "/api/v1/watch/namespaces/shut/configmaps/it?timeoutSeconds=1".to_owned(),
        "/api/v1/namespaces/shut/configmaps?watch=true&timeoutSeconds=1".to_owned(),
        "/api/v1/namespaces/open/../shut/configmaps/it".to_owned(),
        "/api/v1/namespaces/open/%2e%2e/shut/configmaps/it".to_owned(),
        "/api/v1/namespaces/open%2F..%2Fshut/configmaps/it".to_owned(),
        "/api/v1/namespaces/open/configmaps/..%2f..%2f..%2fnamespaces/shut/configmaps/it".to_owned(),
        "/version/../api/v1/namespaces/shut/configmaps/it".to_owned(),
        "/openapi/..%2fapi/v1/namespaces/shut/configmaps/it".to_owned(),
        "/apis/..;/api/v1/namespaces/shut/configmaps/it".to_owned(),
    ];
    for (at, byte) in plain.bytes().enumerate().skip(1) {
        let (before, after) = plain.split_at(at);
        let rest = after.get(1..).unwrap_or_default();
        written.push(format!("{before}%{byte:02x}{rest}"));
        written.push(format!("{before}%25{byte:02x}{rest}"));
        if byte == b'/' {
            written.extend(["/", "/./", "/x/../", "%2f", "%5c", "/;/"].map(|with| format!("{before}{with}{rest}")));
        }
    }
    for target in written {
        let answer = executor.get(&target).await?;
        ensure!(answer.starts_with("HTTP/1.1 403") && answer.contains("the cluster's owner"), "{target}: {answer}");
        ensure!(!answer.contains(HIDDEN), "{target} got through: {answer}");
    }
    executor.stop().await?;
    lab.stop().await
}

#[tokio::test]
async fn nodes_and_pods_are_counted_by_the_right_the_chart_gives() -> Result<()> {
    let lab = lab().await?;
    let place = Place::prepare(&lab, "proxy-executor", "counted", &[]).await?;
    for name in ["one", "two", "three"] {
        let node = format!(r#"{{"apiVersion":"v1","kind":"Node","metadata":{{"name":"{name}"}}}}"#);
        lab.admin().stdout_with_input(&["create", "-f", "-"], &node).await?;
    }
    for name in ["a", "b"] {
        let pod = format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}"}},"spec":{{"containers":[{{"name":"c","image":"i"}}]}}}}"#
        );
        until("the namespace to take pods", SOON, || place.create(&lab, &pod)).await?;
    }
    let executor = Executor::start(&lab, &place, Policy::default()).await?;
    let cluster = executor.cluster().await?;
    let version = lab.admin().stdout(&["version", "-o", "json"]).await?;
    ensure!(version.contains(&format!("\"{}\"", cluster.k8s_version)), "{cluster:?}: {version}");
    ensure!((cluster.nodes, cluster.pods) == (Some(3), Some(2)), "{cluster:?}");
    executor.stop().await?;

    let uncounted = ["proxy-executor.facts.counts=false"];
    let place = Place::prepare(&lab, "proxy-executor", "uncounted", &uncounted).await?;
    let executor = Executor::start(&lab, &place, Policy::default()).await?;
    let cluster = executor.cluster().await?;
    if (cluster.nodes, cluster.pods) != (None, None) {
        bail!("counted without a right to: {cluster:?}");
    }
    executor.stop().await?;
    lab.stop().await
}
