use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use bus::Service;
use bus::facts::{AskProxyExecutor, CheckProxyPolicy, ClusterFacts, Facts, Verdict};
use bus::state::CONFIG_INTERVAL;
use protocol::config::Refused;
use tokio::sync::Semaphore;

use crate::agent::{Agent, options};
use crate::keeper::Keeper;
use crate::peer::{OURS, Peer};

const WISH: &str = r#"{"revision":7,"heartbeat_interval_seconds":1,"proxy":{"namespaces":["a","b"]},"monitoring":{"enabled":true},"tunnels":[{"name":"web","protocol":"tcp","target":"shop/web:80"},{"name":"dns","protocol":"udp","target":"kube-system/kube-dns:53"}]}"#;

#[tokio::test]
async fn a_configuration_is_in_force_stored_and_answered_setting_by_setting() {
    let (keeper, peer) = (Keeper::start().await, Peer::start().await);
    let agent = Agent::start(&keeper, options(&peer));
    let mut link = peer.accept().await;
    link.register(OURS).await;
    link.hear("heartbeat").await;
    link.tell("config_push", WISH).await;
    let ack = link.wait_for("config_ack").await;
    assert_eq!((&ack["revision"], &ack["accepted"][0]), (&7.into(), &"heartbeat_interval_seconds".into()), "{ack}");
    let refused = ack["refused"].as_array().unwrap();
    assert_eq!(refused.len(), 3, "{ack}");
    let reason = |setting: &str| refused.iter().find(|r| r["setting"] == setting).unwrap()["reason"].as_str().unwrap();
    assert_eq!(reason("proxy"), "no proxy-executor runs in this cluster");
    assert!(reason("tunnels[dns]").contains("kube-system/kube-dns:53 may not be reached"), "{ack}");
    assert_eq!(reason("monitoring"), "no components-installer runs in this cluster");
    assert_eq!(keeper.stored().config.as_ref().unwrap().revision, 7);
    // Every second, and no longer every thirty.
    for _ in 0..2 {
        link.hear("heartbeat").await;
    }
    // Also after a restart, before the control plane has said anything.
    drop((link, agent));
    let _agent = Agent::start(&keeper, options(&peer));
    let mut link = peer.accept().await;
    link.register(OURS).await;
    let begun = Instant::now();
    for _ in 0..3 {
        link.hear("heartbeat").await;
    }
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());

    let executor = keeper.bus.bus(Service::ProxyExecutor);
    let _serving = executor
        .serve(|request: CheckProxyPolicy| async move {
            assert_eq!(request.policy.namespaces.unwrap(), ["a", "b"]);
            let reason = "the cluster's owner allows only a".to_owned();
            let refused = vec![Refused { setting: "proxy.namespaces".to_owned(), reason }];
            Ok(Verdict { refused, ..Verdict::default() })
        })
        .await
        .unwrap();
    link.tell("config_push", WISH).await;
    let ack = link.wait_for("config_ack").await;
    assert_eq!(ack["refused"][0]["setting"], "proxy.namespaces", "{ack}");
    link.tell("config_push", r#"{"revision":8,"heartbeat_interval_seconds":0}"#).await;
    let ack = link.wait_for("config_ack").await;
    assert!(ack["refused"][0]["reason"].as_str().unwrap().contains("from 1 to 3600"), "{ack}");
    assert_eq!(keeper.stored().config.as_ref().unwrap().revision, 7);
}

#[tokio::test]
async fn a_policy_is_accepted_once_it_is_in_force_and_the_answer_follows_the_executors() {
    let (keeper, peer) = (Keeper::start().await, Peer::start().await);
    let _agent = Agent::start(&keeper, options(&peer));
    let mut link = peer.accept().await;
    link.register(OURS).await;
    link.tell("config_push", r#"{"revision":7,"proxy":{"read_only":true}}"#).await;
    let ack = link.wait_for("config_ack").await;
    assert_eq!(ack["refused"][0]["reason"], "no proxy-executor runs in this cluster", "{ack}");

    let executor = keeper.bus.bus(Service::ProxyExecutor);
    let asked = Arc::new(AtomicUsize::new(0));
    let serving = executor
        .serve({
            let asked = Arc::clone(&asked);
            move |_: CheckProxyPolicy| {
                let pending = asked.fetch_add(1, SeqCst) < 3;
                std::future::ready(Ok(Verdict { pending, ..Verdict::default() }))
            }
        })
        .await
        .unwrap();
    let ack = link.wait_for("config_ack").await;
    assert_eq!((&ack["revision"], &ack["accepted"][0], asked.load(SeqCst)), (&7.into(), &"proxy".into(), 4));
    drop(serving);
    let ack = link.wait_for("config_ack").await;
    assert_eq!(ack["refused"][0]["reason"], "no proxy-executor runs in this cluster", "{ack}");
}

#[tokio::test]
async fn a_policy_is_not_accepted_before_every_executor_has_asked_for_it() {
    let (mut keeper, peer) = (Keeper::start().await, Peer::start().await);
    let executor = keeper.bus.bus(Service::ProxyExecutor);
    let _serving = executor.serve(async |_: CheckProxyPolicy| Ok(Verdict::default())).await.unwrap();
    let _agent = Agent::start(&keeper, options(&peer));
    let mut link = peer.accept().await;
    link.register(OURS).await;
    let begun = Instant::now();
    link.tell("config_push", r#"{"revision":7,"proxy":{"read_only":true}}"#).await;
    let ack = link.wait_for("config_ack").await;
    assert!(ack["accepted"][0] == "proxy" && begun.elapsed() >= CONFIG_INTERVAL, "{ack} {:?}", begun.elapsed());

    // One that withdraws all is answered too, when it cannot be stored.
    keeper.goes_away();
    link.tell("config_push", r#"{"revision":8}"#).await;
    let ack = link.wait_for("config_ack").await;
    let reason = ack["refused"][0]["reason"].as_str().unwrap();
    assert!(ack["revision"] == 8 && reason.contains("it cannot be stored"), "{ack}");
    keeper.comes_back().await;
    let ack = link.wait_for("config_ack").await;
    assert!(ack["refused"].as_array().unwrap().is_empty(), "{ack}");
    assert_eq!(keeper.stored().config.as_ref().unwrap().revision, 8);
}

#[tokio::test]
async fn what_is_first_heard_of_the_cluster_is_said_at_once_and_what_is_not_known_is_not_said() {
    let (keeper, peer) = (Keeper::start().await, Peer::start().await);
    let executor = keeper.bus.bus(Service::ProxyExecutor);
    let asked = Arc::new(Semaphore::new(0));
    let _serving = executor
        .serve({
            let asked = Arc::clone(&asked);
            move |_: AskProxyExecutor| {
                let asked = Arc::clone(&asked);
                async move {
                    let _once = asked.acquire().await.unwrap();
                    let cluster =
                        ClusterFacts { k8s_version: "v1.36.3".to_owned(), pods: Some(0), ..Default::default() };
                    Ok(Facts { ready: true, cluster: Some(cluster), ..Facts::default() })
                }
            }
        })
        .await
        .unwrap();
    let _agent = Agent::start(&keeper, options(&peer));
    let mut link = peer.accept().await;
    link.register(OURS).await;
    let first = link.hear("heartbeat").await["metadata"].take();
    assert_eq!((first.get("k8s_nodes"), first.get("k8s_pods")), (None, None), "{first}");
    asked.add_permits(1);
    let second = link.hear("heartbeat").await["metadata"].take();
    assert_eq!((second.get("k8s_nodes"), &second["k8s_pods"]), (None, &0.into()), "{second}");
    assert_eq!(second["k8s_version"], "v1.36.3");
}

#[tokio::test]
async fn a_heartbeat_says_what_the_other_services_know_and_since_when() {
    let (keeper, peer) = (Keeper::start().await, Peer::start().await);
    let executor = keeper.bus.bus(Service::ProxyExecutor);
    let _serving = executor
        .serve(|_: AskProxyExecutor| async {
            let cluster =
                ClusterFacts { k8s_version: "v1.36.3".to_owned(), nodes: Some(3), pods: Some(40), age_seconds: 5 };
            let not_ready = vec!["kubernetes: away".to_owned()];
            Ok(Facts { version: "1.2".to_owned(), uptime_seconds: 60, ready: false, not_ready, cluster: Some(cluster) })
        })
        .await
        .unwrap();
    let mut options = options(&peer);
    options.agent.heartbeat_interval_connected = runtime::Duration::from_millis(50);
    let _agent = Agent::start(&keeper, options);
    let mut link = peer.accept().await;
    link.register(OURS).await;
    let metadata = loop {
        let heartbeat = link.hear("heartbeat").await;
        assert_eq!((&heartbeat["status"], &heartbeat["tunnel_status"]), (&"healthy".into(), &"connected".into()));
        if heartbeat["metadata"]["k8s_nodes"] == 3 {
            break heartbeat["metadata"].clone();
        }
    };
    assert_eq!((&metadata["k8s_version"], &metadata["k8s_pods"]), (&"v1.36.3".into(), &40.into()));
    assert!(metadata["k8s_age_seconds"].as_u64().unwrap() >= 5, "{metadata}");
    let component = |name: &str| &metadata["components"][name];
    assert_eq!(component("proxy-executor")["status"], "not_ready");
    assert_eq!(component("proxy-executor")["reason"], "kubernetes: away");
    assert_eq!(component("state-keeper")["status"], "unknown", "{metadata}");
    assert_eq!(component("gateway-link")["status"], "ready");
    assert_eq!(metadata["gateway_state"], "connected");
}
