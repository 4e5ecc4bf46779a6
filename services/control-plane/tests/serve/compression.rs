//! Links whose text messages are compressed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use flate2::{Compress, Compression, FlushCompress};
use futures::{SinkExt as _, StreamExt as _};
use gateway_link::{Dialer, PipeOps, Socket, Tls};
use protocol::Secret;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::frame::{Frame, FrameHeader, coding::Data, coding::OpCode};

use crate::agents::Link;
use crate::control_plane::{ControlPlane, SOON, ca, token};

/// A way to the control plane that counts what the agent sends.
struct Way {
    port: u16,
    sent: Arc<AtomicUsize>,
    _carrying: JoinSet<()>,
}

impl Way {
    async fn to(server: &ControlPlane) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, sent) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
        let (counted, address) = (Arc::clone(&sent), server.address.clone());
        let mut carrying = JoinSet::new();
        carrying.spawn(async move {
            let (mut agent, _) = listener.accept().await.unwrap();
            let mut server = TcpStream::connect(address).await.unwrap();
            let ((mut from_agent, mut to_agent), (mut from_server, mut to_server)) = (agent.split(), server.split());
            let up = async {
                let mut some = vec![0; 16 * 1024];
                while let Ok(read @ 1..) = from_agent.read(&mut some).await {
                    counted.fetch_add(read, Ordering::Relaxed);
                    to_server.write_all(&some[..read]).await.unwrap();
                }
            };
            let _ended = tokio::join!(up, copy(&mut from_server, &mut to_agent));
        });
        Self { port, sent, _carrying: carrying }
    }

    async fn dial(&self, data: &Path, secret: &str, compression: bool) -> Socket {
        let options = PipeOps {
            api_url: format!("https://localhost:{}", self.port),
            tls: Tls { ca_file: Some(data.join("tls/ca.crt")), ..Tls::default() },
            compression,
            ..PipeOps::default()
        };
        let dialer = Dialer::new(&options).unwrap();
        dialer.dial(&Secret::new(secret), mux::Config::default().websocket()).await.unwrap()
    }
}

#[tokio::test]
async fn a_large_text_takes_fewer_bytes_where_both_ends_want_that_and_only_there() {
    let labels: serde_json::Map<_, _> =
        (0..5000).map(|at| (format!("label-{at}"), format!("team-{} in building {at}", at % 7).into())).collect();
    let payload =
        json!({"agent_id": "agent-1", "agent_version": "1.0.0", "labels": labels, "capabilities": ["streams/2"]});
    let text = json!({"type": "register", "payload": payload, "timestamp": "2026-01-01T00:00:00Z"}).to_string();
    for (agent_wants, server_wants) in [(true, true), (true, false), (false, true)] {
        let place = tempfile::tempdir().unwrap();
        let data = place.path();
        let setting = Path::new(if server_wants { "true" } else { "false" });
        let mut server = ControlPlane::start(data, &[("PIPEOPS_LINKS_COMPRESSION", setting)]).await;
        let secret = token(data, &["create", "--agent", "--cluster", "prod"]).await;
        let way = Way::to(&server).await;
        let mut socket = way.dial(data, &secret, agent_wants).await;
        let both = agent_wants && server_wants;
        assert_eq!(socket.get_ref().compresses(), both);
        let before = way.sent.load(Ordering::Relaxed);
        socket.send(Message::text(text.clone())).await.unwrap();
        let answer = timeout(SOON, socket.next()).await.unwrap().unwrap().unwrap();
        assert!(answer.to_text().unwrap().contains("register_success"), "{answer}");
        let took = way.sent.load(Ordering::Relaxed) - before;
        assert_eq!(took < text.len() / 4, both, "{took} bytes for {}", text.len());
        assert_eq!(took > text.len(), !both, "{took} bytes for {}", text.len());
        let registered = server.says("agent registered").await;
        assert_eq!(registered["compressed"], both);
    }
}

/// A compressed binary message, as no library would make it for us.
fn compressed(payload: Vec<u8>) -> Message {
    let header = FrameHeader { rsv1: true, opcode: OpCode::Data(Data::Binary), ..FrameHeader::default() };
    let mut frame = Frame::from_payload(header, payload.into());
    frame.header_mut().mask = Some([1, 2, 3, 4]);
    Message::Frame(frame)
}

#[tokio::test]
async fn a_message_that_unpacks_to_too_much_or_not_at_all_ends_its_link_with_the_reason() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path();
    let server = ControlPlane::start(data, &[]).await;
    let ca = ca(data);
    let secret = token(data, &["create", "--agent", "--cluster", "prod"]).await;
    let mut bomb = Vec::with_capacity(1 << 20);
    let mut compress = Compress::new(Compression::best(), false);
    compress.compress_vec(&vec![0; 64 << 20], &mut bomb, FlushCompress::Sync).unwrap();
    for (payload, code) in [(bomb, 1009), (vec![7, 0, 0], 1002)] {
        let mut request = "wss://localhost/api/v1/clusters/agent/ws".into_client_request().unwrap();
        request.headers_mut().insert("authorization", format!("Bearer {secret}").parse().unwrap());
        request.headers_mut().insert("sec-websocket-extensions", "permessage-deflate".parse().unwrap());
        let tls = server.connect(&ca).await.unwrap();
        let (mut link, response): (Link, _) = tokio_tungstenite::client_async(request, tls).await.unwrap();
        let answer = response.headers()["sec-websocket-extensions"].to_str().unwrap();
        assert_eq!(answer, "permessage-deflate; client_no_context_takeover; server_no_context_takeover");
        link.send(compressed(payload)).await.unwrap();
        let closed = timeout(SOON, link.next()).await.unwrap().expect("it ends without a word").unwrap();
        let Message::Close(Some(frame)) = closed else { panic!("{closed}") };
        assert_eq!(u16::from(frame.code), code);
    }
}
