//! What gateway-link asks of the control plane's REST endpoints for others.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bus::routes::{CallError, GetLink, SyncRoutes, SyncTunnels, SyncedRoutes, UnregisterRoute};
use bus::{Request, RequestError, Service};
use gateway_link::{Options, PipeOps};
use protocol::route::{RouteAnswer, Unregister};
use protocol::{ClusterId, Secret, Target, Tunnel, TunnelId};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::agent::{Agent, options};
use crate::keeper::Keeper;
use crate::peer::{Peer, SOON};

/// The REST endpoints of a control plane that takes no link.
struct Rest {
    address: SocketAddr,
    said: Arc<Mutex<VecDeque<(u16, Value)>>>,
    asked: Arc<Mutex<Vec<(String, String, Value)>>>,
    running: JoinSet<()>,
}

impl Rest {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (said, asked) = (Arc::<Mutex<VecDeque<_>>>::default(), Arc::<Mutex<Vec<_>>>::default());
        let mut running = JoinSet::new();
        let (answers, requests) = (Arc::clone(&said), Arc::clone(&asked));
        running.spawn(async move {
            while let Ok((mut tcp, _)) = listener.accept().await {
                let Some((path, token, body)) = read(&mut tcp).await else { continue };
                let (status, answer) = if path == protocol::endpoint::AGENT_WS {
                    (503, json!("no links here"))
                } else {
                    requests.lock().unwrap().push((path, token, body));
                    answers.lock().unwrap().pop_front().unwrap()
                };
                let answer = if answer.is_null() { String::new() } else { answer.to_string() };
                let head =
                    format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", answer.len());
                let _ = tcp.write_all((head + &answer).as_bytes()).await;
            }
        });
        Self { address, said, asked, running }
    }

    /// What the next request is answered with.
    fn will_say(&self, status: u16, answer: Value) {
        self.said.lock().unwrap().push_back((status, answer));
    }

    /// Path, token and body of the next request.
    fn asked(&self) -> (String, String, Value) {
        self.asked.lock().unwrap().remove(0)
    }

    fn options(&self) -> Options {
        let pipeops = PipeOps {
            api_url: format!("http://{}", self.address),
            token: Some(Secret::new("by-hand")),
            ..PipeOps::default()
        };
        Options { pipeops, ..Options::default() }
    }
}

async fn read(tcp: &mut TcpStream) -> Option<(String, String, Value)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tcp.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let header =
        |name: &str| head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix(name).map(str::to_owned));
    let mut body = vec![0; header("content-length: ").map_or(0, |length| length.parse().unwrap())];
    tcp.read_exact(&mut body).await.ok()?;
    let path = head.split(' ').nth(1)?.to_owned();
    Some((path, header("authorization: bearer ")?, serde_json::from_slice(&body).unwrap_or_default()))
}

/// Asks as route-syncer, once there is somebody to be asked.
async fn ask<R: Request>(keeper: &Keeper, request: &R) -> Result<R::Reply, RequestError<R::Error>> {
    let bus = keeper.bus.bus(Service::RouteSyncer);
    let asking = async {
        loop {
            match bus.request(request).await {
                Err(RequestError::NoResponder) => tokio::time::sleep(Duration::from_millis(5)).await,
                answer => return answer,
            }
        }
    };
    tokio::time::timeout(SOON, asking).await.expect("nobody answers")
}

async fn refused<R: Request<Error = CallError>>(keeper: &Keeper, request: &R) -> CallError {
    match ask(keeper, request).await {
        Err(RequestError::Typed(error)) => error,
        Err(error) => panic!("{error:?}"),
        Ok(_) => panic!("it is answered"),
    }
}

#[tokio::test]
async fn calls_are_made_for_the_registered_cluster_with_its_token_link_or_not() {
    let (keeper, rest) = (Keeper::start().await, Rest::start().await);
    let mut options = rest.options();
    options.tunnel.forwards = serde_json::from_value(json!([{"name": "db", "local_addr": "10.0.0.7:5432"}])).unwrap();
    let _agent = Agent::start(&keeper, options);
    let sync = SyncRoutes::default();
    let error = refused(&keeper, &sync).await;
    assert_eq!(error.to_string(), "not connected to the control plane: this cluster is not registered yet");

    keeper.stored().identity.cluster_id = Some(ClusterId::new("c-1").unwrap());
    rest.will_say(200, Value::Null);
    assert_eq!(ask(&keeper, &sync).await.unwrap(), SyncedRoutes { answer: None }, "of the published protocol");
    let path = "/api/v1/gateway/routes/sync".to_owned();
    let set = json!({"cluster_uuid": "c-1", "routing_mode": "tunnel", "ingresses": []});
    assert_eq!(rest.asked(), (path, "by-hand".to_owned(), set));
    rest.will_say(200, json!({"accepted": [], "rejected": []}));
    assert_eq!(ask(&keeper, &sync).await.unwrap().answer, Some(RouteAnswer::default()));
    assert!(!ask(&keeper, &GetLink {}).await.unwrap().connected);

    let away = UnregisterRoute { route: Unregister { hostname: "a.example.com".to_owned() } };
    for status in [200, 404] {
        rest.will_say(status, Value::Null);
        ask(&keeper, &away).await.unwrap();
    }
    let asked = [rest.asked(), rest.asked(), rest.asked()];
    let path = "/api/v1/gateway/routes/unregister".to_owned();
    assert_eq!(asked[2], (path, "by-hand".to_owned(), json!({"hostname": "a.example.com"})));

    let target: Target = "shop/db:5432".parse().unwrap();
    let tunnel = Tunnel::new(TunnelId::new("db").unwrap(), protocol::config::Transport::Tcp, &target);
    let mut tunnels = SyncTunnels::default();
    tunnels.sync.tunnels.push(tunnel);
    rest.will_say(200, json!({"accepted": [], "rejected": [{"tunnel_id": "db", "reason": "no port is free"}]}));
    assert_eq!(ask(&keeper, &tunnels).await.unwrap().rejected[0].reason, "no port is free");
    let (path, _, body) = rest.asked();
    assert_eq!(path, "/api/v1/clusters/agent/c-1/tunnels/sync");
    assert_eq!((&body["cluster_uuid"], &body["tunnels"][0]["cluster_uuid"]), (&json!("c-1"), &json!("c-1")));
    let forward = &body["tunnels"][1];
    assert_eq!(forward["tunnel_id"], "forward-db", "the owner's own are of the whole set: {body}");
    assert_eq!((&forward["service_namespace"], &forward["service_port"]), (&json!("pipeops-forwards"), &json!(5432)));
}

#[tokio::test]
async fn what_the_control_plane_refuses_is_said_in_its_words() {
    let (keeper, mut rest) = (Keeper::start().await, Rest::start().await);
    keeper.stored().identity.cluster_id = Some(ClusterId::new("c-1").unwrap());
    let _agent = Agent::start(&keeper, rest.options());
    let sync = SyncRoutes::default();
    let status =
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no routes here", "code": 403});
    rest.will_say(403, status);
    let refusal = |status, message: &str| CallError::Refused { status, message: message.to_owned() };
    assert_eq!(refused(&keeper, &sync).await, refusal(403, "no routes here"));
    rest.will_say(500, json!("broken"));
    assert_eq!(refused(&keeper, &sync).await, refusal(500, "\"broken\""));
    rest.will_say(201, Value::Null);
    assert_eq!(refused(&keeper, &sync).await, refusal(201, "Created"), "nothing but 200 is success");
    rest.will_say(200, json!("no answer"));
    let error = refused(&keeper, &SyncTunnels::default()).await;
    assert!(matches!(&error, CallError::Unreadable { .. }), "{error:?}");
    rest.running.shutdown().await;
    let error = refused(&keeper, &sync).await;
    assert!(matches!(&error, CallError::Unreachable { reason } if reason.contains("cannot connect")), "{error:?}");
}

#[tokio::test]
async fn each_link_is_counted_for_those_who_tell_the_control_plane_anew() {
    let (keeper, peer) = (Keeper::start().await, Peer::start().await);
    let agent = Agent::start(&keeper, options(&peer));
    let none = ask(&keeper, &GetLink {}).await.unwrap();
    assert_eq!((none.links, none.connected), (0, false));
    for links in 1..=2 {
        let mut link = peer.accept().await;
        link.register("").await;
        link.hear("heartbeat").await;
        let seen = ask(&keeper, &GetLink {}).await.unwrap();
        assert_eq!((seen.links, seen.connected, seen.instance), (links, true, none.instance.clone()));
    }
    agent.stop().await;
}

#[tokio::test]
async fn no_call_dials_while_a_lost_link_waits_for_its_turn() {
    let (keeper, peer) = (Keeper::start().await, Peer::start().await);
    let _agent = Agent::start(&keeper, options(&peer));
    let mut link = peer.accept().await;
    link.register("").await;
    link.hear("heartbeat").await;
    drop(link);
    let lost = async {
        while ask(&keeper, &GetLink {}).await.unwrap().connected {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, lost).await.expect("the link is not lost");
    let error = refused(&keeper, &SyncRoutes::default()).await;
    assert!(matches!(&error, CallError::NotConnected { reason } if reason.contains("is being made again")), "{error}");
}
