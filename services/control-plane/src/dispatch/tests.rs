use std::time::Duration;

use mux::{Config, Incoming, Role, Timed, Windows};
use protocol::AgentId;
use tokio::io::DuplexStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role as Side;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::clusters::Clusters;
use crate::store::Folder;

const SOON: Duration = Duration::from_secs(20);

/// Links of one cluster, with agents that take nothing before they are told to.
struct Stage {
    cluster: Arc<Cluster>,
    links: Vec<(Arc<AgentLink>, Incoming)>,
    driving: JoinSet<()>,
    _place: tempfile::TempDir,
}

impl Stage {
    async fn start(links: usize) -> Self {
        let place = tempfile::tempdir().unwrap();
        let clusters = Arc::new(Clusters::open(Folder::open(place.path().to_owned()).unwrap()).unwrap());
        let agent = AgentId::new("a").unwrap();
        let cluster = clusters.register("prod", &agent).await.unwrap();
        let mut this = Self { cluster, links: Vec::new(), driving: JoinSet::new(), _place: place };
        for _ in 0..links {
            let (ours, theirs) = tokio::io::duplex(1 << 20);
            let (link, _) = this.end(ours, Role::ControlPlane).await;
            let (_, incoming) = this.end(theirs, Role::Agent).await;
            let link = Arc::new(AgentLink::new(agent.clone(), link, 8, &CancellationToken::new()));
            this.cluster.add(Arc::clone(&link), true).unwrap();
            this.links.push((link, incoming));
        }
        this
    }

    async fn end(&mut self, io: DuplexStream, role: Role) -> (mux::Link, Incoming) {
        let side = match role {
            Role::Agent => Side::Client,
            Role::ControlPlane => Side::Server,
        };
        let socket = WebSocketStream::from_raw_socket(Timed::new(io), side, None).await;
        let (link, incoming, driver) = mux::start(socket, role, Config::default());
        link.start_streams(Windows::Tuned);
        self.driving.spawn(async move {
            driver.await;
        });
        (link, incoming)
    }

    /// Opens one for which the first link is to be used, and gives the link that is.
    async fn connect(&self) -> (MuxStream, Arc<AgentLink>) {
        let tried = Mutex::default();
        let stream = Opening { destination: Destination::ApiServer, traceparent: None, own: None };
        let opened = connect(&self.cluster, &self.links[0].0, &tried, &stream).await;
        (opened.unwrap().0, tried.into_inner().unwrap().pop().unwrap())
    }
}

#[tokio::test]
async fn a_link_whose_agent_has_streams_to_take_is_not_waited_for_while_another_is_free() {
    let mut stage = Stage::start(2).await;
    let mut open = Vec::new();
    while let Some(mut stream) = stage.links[0].0.link.try_open().unwrap() {
        stream.write_all(b"x").await.unwrap();
        open.push(stream);
    }
    let (stream, used) = timeout(SOON, stage.connect()).await.expect("it waits for the busy link");
    assert!(Arc::ptr_eq(&used, &stage.links[1].0));
    open.push(stream);

    while let Some(mut stream) = stage.links[1].0.link.try_open().unwrap() {
        stream.write_all(b"x").await.unwrap();
        open.push(stream);
    }
    assert!(timeout(Duration::from_millis(50), stage.connect()).await.is_err(), "neither has room");
    let _taken = stage.links[0].1.streams.recv().await.unwrap();
    let (_stream, used) = timeout(SOON, stage.connect()).await.expect("it does not see that there is room");
    assert!(Arc::ptr_eq(&used, &stage.links[0].0));
}
