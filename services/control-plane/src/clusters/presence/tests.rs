use tokio_util::sync::CancellationToken;

use super::*;
use crate::clusters::{AgentLink, Clusters};
use crate::options;
use crate::store::Folder;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

fn register(capabilities: &[&str]) -> Register {
    let text = r#"{"agent_id": "agent-1", "agent_version": "1.4.0"}"#;
    let register: Register = serde_json::from_str(text).unwrap();
    Register { capabilities: capabilities.iter().map(|c| (*c).to_owned()).collect(), ..register }
}

/// A link that nobody drives.
async fn link() -> Arc<AgentLink> {
    let (near, _far) = tokio::io::duplex(1024);
    let socket = WebSocketStream::from_raw_socket(mux::Timed::new(near), Role::Server, None).await;
    let (link, ..) = mux::start(socket, mux::Role::ControlPlane, mux::Config::default());
    Arc::new(AgentLink::new(AgentId::new("agent-1").unwrap(), link, 1, &CancellationToken::new()))
}

#[tokio::test]
async fn a_cluster_says_why_it_takes_no_requests() {
    let place = tempfile::tempdir().unwrap();
    let clusters = Arc::new(Clusters::open(Folder::open(place.path().join("clusters")).unwrap()).unwrap());
    let cluster = clusters.register("prod", &AgentId::new("agent-1").unwrap()).await.unwrap();
    let says = |wanted: &str| {
        let said = cluster.why_unreachable();
        assert!(said.contains(wanted) && said.starts_with("cluster \"prod\" "), "{said}");
        assert!(!cluster.is_reachable() && cluster.pick(&[]).is_none());
    };
    says("is offline: its agent is not connected; it has not been seen since this control plane started");

    let presence = cluster.arrives(&register(&[]));
    says("its agent has just connected; try again soon");
    assert_eq!(cluster.agents().len(), 1);

    let live = link().await;
    cluster.add(Arc::clone(&live), true).unwrap();
    assert!(cluster.is_reachable() && cluster.is_served() && cluster.pick(&[]).is_some());
    assert_eq!(cluster.protocol(), Some("streams/2"));
    live.leaving.cancel();
    says("its agent is shutting down, and no other is connected; try again soon");
    drop(presence);
    cluster.remove(&live);
    says("is offline: its agent is not connected; it was last seen at 20");
    assert!(cluster.agents().is_empty());
}

#[tokio::test]
async fn a_link_with_messages_is_replaced_by_any_and_serves_with_a_token_only() {
    let place = tempfile::tempdir().unwrap();
    let clusters = Arc::new(Clusters::open(Folder::open(place.path().join("clusters")).unwrap()).unwrap());
    let cluster = clusters.register("prod", &AgentId::new("agent-1").unwrap()).await.unwrap();
    let budget = mux::Budget::limited(1000);
    let streams = link().await;
    cluster.add(Arc::clone(&streams), true).unwrap();
    let mux = streams.link.clone();
    let older = OlderLink::new(mux.clone(), None, &budget, &Arc::default(), &options::Links::default());
    let older = AgentLink::older(streams.agent_id.clone(), mux, older, 1, &CancellationToken::new());
    let older = Arc::new(older);
    cluster.add(Arc::clone(&older), false).unwrap();
    assert!(Arc::ptr_eq(&cluster.pick(&[]).unwrap(), &older) && cluster.live_links().len() == 1);
    assert_eq!(cluster.protocol(), Some("messages"));
    assert!(!cluster.is_served() && cluster.why_unreachable().contains("k8s_service_token"));
    older.messages().unwrap().replace_token(Some("token".to_owned().into()));
    assert!(cluster.is_served());
    cluster.add(Arc::clone(&streams), true).unwrap();
    assert!(Arc::ptr_eq(&cluster.pick(&[]).unwrap(), &streams) && cluster.live_links().len() == 1);
}

#[tokio::test]
async fn agents_come_and_go_each_for_itself() {
    let place = tempfile::tempdir().unwrap();
    let clusters = Arc::new(Clusters::open(Folder::open(place.path().join("clusters")).unwrap()).unwrap());
    let cluster = clusters.register("prod", &AgentId::new("agent-1").unwrap()).await.unwrap();
    let long = Register { agent_version: "x".repeat(1000), ..register(&[capability::STREAMS_2]) };
    let (first, second) = (cluster.arrives(&register(&[])), cluster.arrives(&long));
    assert_eq!(cluster.agents().len(), 2);
    drop(first);
    assert_eq!(cluster.agents().len(), 1);
    second.update(&long);
    assert_eq!(cluster.agents().len(), 1, "it has registered again");
    assert_eq!(cluster.agents()[0].agent_version.len(), LONGEST_VERSION);
    drop(second);
    assert!(cluster.agents().is_empty());
}
