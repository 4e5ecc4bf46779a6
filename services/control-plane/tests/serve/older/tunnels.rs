//! Tunnels through an agent that knows them as messages only.

use std::io::ErrorKind;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::agent::Stage;
use crate::control_plane::SOON;
use crate::tunnels::port;

#[tokio::test]
async fn bytes_go_as_messages_and_the_end_is_the_services() {
    let stage = Stage::set(&[]).await;
    let mut agent = stage.agent_without_yamux().await;
    agent.is_served().await;
    let port = port(stage.place.path(), &["--tcp", "shop/postgres:5432", "--name", "orders"]).await;
    let mut client = TcpStream::connect(port).await.unwrap();
    let start = agent.hear("tcp_tunnel_start").await;
    assert_eq!(
        start.payload,
        json!({
            "tunnel_id": "orders", "gateway_name": "", "gateway_namespace": "", "gateway_port": 5432,
            "service_name": "postgres", "service_namespace": "shop", "service_port": 5432,
            "client_addr": client.local_addr().unwrap().to_string(),
        })
    );
    client.write_all(b"question").await.unwrap();
    let data = agent.hear("tcp_tunnel_data").await;
    assert_eq!((data.id.as_str(), &data.payload["data"]), (start.id.as_str(), &STANDARD.encode("question").into()));
    // Whoever has said all may still hear the answer.
    client.shutdown().await.unwrap();
    for piece in ["an ", "answer"] {
        let data = json!({"data": STANDARD.encode(piece), "direction": "agent_to_gateway"});
        agent.say("tcp_tunnel_data", Some(&start.id), data).await;
    }
    let close = json!({"reason": "service_closed", "bytes_sent": 9, "bytes_received": 8, "duration_ms": 3});
    agent.say("tcp_tunnel_close", Some(&start.id), close).await;
    let mut answer = Vec::new();
    timeout(SOON, client.read_to_end(&mut answer)).await.expect("no end").unwrap();
    assert_eq!(answer, b"an answer");
}

#[tokio::test]
async fn a_client_that_has_said_all_and_reads_slowly_gets_every_byte() {
    const PIECE: usize = 100_000;
    let stage = Stage::set(&[]).await;
    let mut agent = stage.agent_without_yamux().await;
    agent.is_served().await;
    let port = port(stage.place.path(), &["--tcp", "shop/files:80"]).await;
    let mut client = TcpStream::connect(port).await.unwrap();
    let id = agent.hear("tcp_tunnel_start").await.id;
    let pieces: Vec<Vec<u8>> = (0_u8..20).map(|n| vec![n; PIECE]).collect();
    for (n, piece) in pieces.iter().enumerate() {
        if n == 10 {
            // In the middle of a piece that it has yet to read.
            client.shutdown().await.unwrap();
        }
        agent.say("tcp_tunnel_data", Some(&id), json!({"data": STANDARD.encode(piece)})).await;
    }
    agent.is_served().await;
    let mut heard = Vec::new();
    while heard.len() < pieces.len() * PIECE {
        let mut some = vec![0; 10_000];
        let length = timeout(SOON, client.read(&mut some)).await.expect("no more comes").unwrap();
        assert!(length > 0, "an end after {} bytes", heard.len());
        heard.extend_from_slice(&some[..length]);
    }
    assert!(heard == pieces.concat(), "bytes are lost or changed");
    agent.say("tcp_tunnel_close", Some(&id), json!({"reason": "service_closed"})).await;
    assert_eq!(timeout(SOON, client.read(&mut [0])).await.expect("no end").unwrap(), 0);
}

#[tokio::test]
async fn a_connection_that_is_not_made_or_cut_is_reset_and_the_agent_hears_of_a_client_that_goes() {
    let stage = Stage::set(&[]).await;
    let mut agent = stage.agent_without_yamux().await;
    agent.is_served().await;
    let port = port(stage.place.path(), &["--tcp", "shop/postgres:5432"]).await;
    for close in [json!({"reason": "connection_failed", "error": "no such host"}), json!({"reason": "write_error"})] {
        let mut client = TcpStream::connect(port).await.unwrap();
        let id = agent.hear("tcp_tunnel_start").await.id;
        agent.say("tcp_tunnel_close", Some(&id), close).await;
        let error = timeout(SOON, client.read(&mut [0])).await.expect("nothing").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    let client = TcpStream::connect(port).await.unwrap();
    let id = agent.hear("tcp_tunnel_start").await.id;
    // With a reset, as from a client that is killed.
    client.set_zero_linger().unwrap();
    drop(client);
    let data = json!({"data": STANDARD.encode("for nobody")});
    agent.say("tcp_tunnel_data", Some(&id), data).await;
    let closed = agent.hear("tcp_tunnel_close").await;
    assert_eq!((closed.id, &closed.payload["reason"]), (id, &"client_closed".into()));
}

#[tokio::test]
async fn each_client_of_datagrams_is_a_tunnel_of_its_own_to_the_agent() {
    let stage = Stage::set(&[]).await;
    let mut agent = stage.agent_without_yamux().await;
    agent.is_served().await;
    let port = port(stage.place.path(), &["--udp", "kube-system/kube-dns:53"]).await;
    let mut clients = Vec::new();
    for question in ["first", "second"] {
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(port).await.unwrap();
        client.send(question.as_bytes()).await.unwrap();
        let heard = agent.hear("udp_tunnel_data").await.payload;
        let address = client.local_addr().unwrap();
        assert_eq!(heard["data"], STANDARD.encode(question));
        assert_eq!((&heard["client_addr"], &heard["client_port"]), (&"127.0.0.1".into(), &address.port().into()));
        assert_eq!((&heard["service_name"], &heard["service_port"]), (&"kube-dns".into(), &53.into()));
        clients.push((client, heard));
    }
    assert_ne!(clients[0].1["tunnel_id"], clients[1].1["tunnel_id"]);
    for (n, (_, heard)) in clients.iter().enumerate() {
        let answer = json!({
            "tunnel_id": heard["tunnel_id"], "data": STANDARD.encode(format!("answer {n}")),
            "client_addr": heard["client_addr"], "client_port": heard["client_port"], "direction": "agent_to_gateway",
        });
        agent.say("udp_tunnel_data", None, answer).await;
    }
    for (n, (client, _)) in clients.iter().enumerate() {
        let mut buffer = [0; 64];
        let length = timeout(SOON, client.recv(&mut buffer)).await.expect("no answer").unwrap();
        assert_eq!(buffer[..length], *format!("answer {n}").as_bytes());
    }
}
