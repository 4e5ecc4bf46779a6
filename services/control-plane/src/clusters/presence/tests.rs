use tokio_util::sync::CancellationToken;

use super::*;
use crate::clusters::{AgentLink, Clusters};
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

    let older = cluster.arrives(&register(&[]));
    says(
        r#"its agent agent-1 (version "1.4.0") is connected, but speaks only the older protocol, over which this control plane carries no requests; the agent has to be updated to one that offers "streams/2""#,
    );
    // It has been updated, and registers anew on the link it has.
    older.update(&register(&[capability::STREAMS_2]));
    says("its agent has just connected; try again soon");
    assert_eq!(cluster.agents().len(), 1);

    let live = link().await;
    cluster.add(Arc::clone(&live), true).unwrap();
    assert!(cluster.is_reachable() && cluster.pick(&[]).is_some());
    live.leaving.cancel();
    says("its agent is shutting down, and no other is connected; try again soon");
    drop(older);
    cluster.remove(&live);
    says("is offline: its agent is not connected; it was last seen at 20");
    assert!(cluster.agents().is_empty());
}

#[tokio::test]
async fn agents_come_and_go_each_for_itself() {
    let place = tempfile::tempdir().unwrap();
    let clusters = Arc::new(Clusters::open(Folder::open(place.path().join("clusters")).unwrap()).unwrap());
    let cluster = clusters.register("prod", &AgentId::new("agent-1").unwrap()).await.unwrap();
    let long = Register { agent_version: "x".repeat(1000), ..register(&[capability::STREAMS_2]) };
    let (first, second) = (cluster.arrives(&register(&[])), cluster.arrives(&long));
    assert_eq!(cluster.agents().iter().map(|agent| agent.older).collect::<Vec<_>>(), [true, false]);
    drop(first);
    assert_eq!(cluster.agents().iter().map(|agent| agent.older).collect::<Vec<_>>(), [false]);
    assert_eq!(cluster.agents()[0].agent_version.len(), LONGEST_VERSION);
    drop(second);
    assert!(cluster.agents().is_empty());
}
