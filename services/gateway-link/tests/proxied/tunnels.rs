//! TCP and UDP tunnels that are messages.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

use crate::control_plane::{ControlPlane, base64};
use crate::{Settings, cluster, cluster_with};

async fn start(control_plane: &mut ControlPlane, id: &str, service: &str) {
    let (namespace, rest) = service.split_once('/').unwrap();
    let (name, port) = rest.split_once(':').unwrap();
    let payload = format!(
        r#"{{"tunnel_id":"t","gateway_name":"g","gateway_port":1,"service_name":"{name}","service_namespace":"{namespace}","service_port":{port},"client_addr":"1.2.3.4:5"}}"#
    );
    control_plane.send("tcp_tunnel_start", id, &payload).await;
}

async fn say(control_plane: &mut ControlPlane, id: &str, bytes: &[u8]) {
    control_plane.send("tcp_tunnel_data", id, &format!(r#"{{"data":"{}"}}"#, base64(bytes))).await;
}

#[tokio::test]
async fn bytes_go_both_ways_in_order() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let services = [("shop/db:5432", listener.local_addr().unwrap())];
    let (mut control_plane, _api) = cluster_with(&services, Settings::default()).await;
    start(&mut control_plane, "t1", "shop/db:5432").await;
    let mut sent = Vec::new();
    for n in 0..500u32 {
        let piece = n.to_be_bytes().repeat(500);
        say(&mut control_plane, "t1", &piece).await;
        sent.extend(piece);
    }
    let (mut tcp, _) = listener.accept().await.unwrap();
    let mut got = vec![0; sent.len()];
    tcp.read_exact(&mut got).await.unwrap();
    assert!(got == sent);
    let mut echo = JoinSet::new();
    echo.spawn(async move {
        tcp.write_all(&sent).await.unwrap();
        tcp.shutdown().await.unwrap();
    });
    let mut back = Vec::new();
    let close = loop {
        let message = control_plane.of("t1").await;
        if message.kind == "tcp_tunnel_close" {
            break message;
        }
        assert_eq!((message.kind.as_str(), message.text("direction")), ("tcp_tunnel_data", "agent_to_gateway"));
        back.extend(message.bytes("data"));
    };
    assert!(back == got);
    assert_eq!(close.text("reason"), "service_closed");
    assert_eq!(
        (&close.payload["bytes_sent"], &close.payload["bytes_received"]),
        (&got.len().into(), &got.len().into())
    );
}

#[tokio::test]
async fn what_was_sent_before_a_close_arrives() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let services = [("shop/db:5432", listener.local_addr().unwrap())];
    let (mut control_plane, _api) = cluster_with(&services, Settings::default()).await;
    start(&mut control_plane, "t1", "shop/db:5432").await;
    say(&mut control_plane, "t1", &[1; 200_000]).await;
    control_plane.send("tcp_tunnel_close", "t1", r#"{"reason":"client_closed"}"#).await;
    let (mut tcp, _) = listener.accept().await.unwrap();
    let mut got = Vec::new();
    tcp.read_to_end(&mut got).await.unwrap();
    assert_eq!(got.len(), 200_000);
    drop(tcp);
    assert!(control_plane.is_silent_about("t1").await);
}

#[tokio::test]
async fn a_tunnel_that_is_not_made_says_why() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let services = [("shop/gone:1", gone), ("kube-system/dns:53", gone)];
    let (mut control_plane, _api) = cluster_with(&services, Settings::default()).await;
    for (service, said) in [
        ("shop/gone:1", "gone.shop.svc"),
        ("shop/unknown:1", "unknown.shop.svc"),
        ("kube-system/dns:53", "may not be reached"),
        ("shop/127.0.0.1:1", "DNS label"),
    ] {
        start(&mut control_plane, "t1", service).await;
        let close = control_plane.of("t1").await;
        assert_eq!((close.kind.as_str(), close.text("reason")), ("tcp_tunnel_close", "connection_failed"));
        assert!(close.error().contains(said), "{close:?}");
    }
}

#[tokio::test]
async fn a_service_that_does_not_read_ends_its_tunnel_only() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let services = [("shop/db:5432", listener.local_addr().unwrap())];
    let mut settings = Settings::default();
    settings.link.proxied.waiting = 512 * 1024;
    let (mut control_plane, _api) = cluster_with(&services, settings).await;
    start(&mut control_plane, "t1", "shop/db:5432").await;
    start(&mut control_plane, "t2", "shop/db:5432").await;
    let (_first, _) = listener.accept().await.unwrap();
    let (_second, _) = listener.accept().await.unwrap();
    let close = loop {
        say(&mut control_plane, "t1", &[0; 256 * 1024]).await;
        control_plane.ping("after a piece").await;
        match control_plane.waiting_of("t1") {
            Some(got) if got.kind == "tcp_tunnel_close" => break got,
            _ => {}
        }
    };
    assert!(close.error().contains("proxied.waiting"), "{close:?}");
    assert!(control_plane.is_silent_about("t2").await);
}

/// The published protocol's own streams, beside messages on one link: yamux by hand, header of version 1.
#[tokio::test]
async fn yamux_streams_and_messages_share_a_link() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let services = [("shop/db:5432", listener.local_addr().unwrap()), ("shop/dns:53", udp.local_addr().unwrap())];
    let (mut control_plane, _api) = cluster_with(&services, Settings::default()).await;
    control_plane.hello().await;
    let tcp_header = b"\x01\x01\x15\x38\x00\x02db\x00\x04shop\x00\x03t-1".to_vec();
    control_plane.yamux_data(2, 1, &[&tcp_header[..], b"first"].concat()).await;
    control_plane.yamux_data(4, 1, b"\x01\x02\x00\x35\x00\x03dns\x00\x04shop\x00\x01u").await;
    control_plane.yamux_data(4, 0, b"a datagram").await;
    start(&mut control_plane, "t1", "shop/db:5432").await;
    say(&mut control_plane, "t1", b"as a message").await;

    // Either of the two may be first.
    let mut said = Vec::new();
    for _ in 0..2 {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut got = [0; 64];
        let length = tcp.read(&mut got).await.unwrap();
        said.push(got[..length].to_vec());
        tcp.write_all(b"answer").await.unwrap();
    }
    said.sort();
    assert_eq!(said, [b"as a message".to_vec(), b"first".to_vec()]);
    let mut buffer = [0; 100];
    let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
    assert_eq!(&buffer[..length], b"a datagram");
    udp.send_to(b"another", from).await.unwrap();

    assert_eq!(control_plane.of("t1").await.bytes("data"), b"answer");
    let begun = std::time::Instant::now();
    while control_plane.yamux_received(2) != (b"answer".to_vec(), true)
        || control_plane.yamux_received(4).0 != b"another"
    {
        let received = (control_plane.yamux_received(2), control_plane.yamux_received(4));
        assert!(begun.elapsed() < crate::control_plane::LIMIT, "{received:?}");
        control_plane.ping("a moment").await;
    }
}

async fn datagram(control_plane: &mut ControlPlane, service: &str, client: u16, bytes: &[u8]) {
    let payload = format!(
        r#"{{"tunnel_id":"u","data":"{}","client_addr":"1.2.3.4","client_port":{client},"service_name":"{service}","service_namespace":"shop","service_port":53}}"#,
        base64(bytes)
    );
    control_plane.send("udp_tunnel_data", "", &payload).await;
}

#[tokio::test]
async fn each_client_gets_the_answers_to_its_own_datagrams() {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let services = [("shop/dns:53", server.local_addr().unwrap())];
    let mut settings = Settings::default();
    settings.link.tunnels.udp.max_sessions = 3;
    let (mut control_plane, _api) = cluster_with(&services, settings).await;
    let mut from = Vec::new();
    let mut buffer = [0; 100];
    for client in [1u16, 2, 3] {
        datagram(&mut control_plane, "dns", client, &client.to_be_bytes()).await;
        let (length, address) = server.recv_from(&mut buffer).await.unwrap();
        assert_eq!(buffer[..length], client.to_be_bytes());
        from.push((client, address));
    }
    for (client, address) in from.iter().rev() {
        server.send_to(&[b"to ", &client.to_be_bytes()[..]].concat(), address).await.unwrap();
        let got = control_plane.next("udp_tunnel_data").await;
        assert_eq!(got.bytes("data"), [b"to ", &client.to_be_bytes()[..]].concat());
        assert_eq!(got.payload["client_port"], serde_json::Value::from(*client));
        assert_eq!((got.text("client_addr"), got.text("tunnel_id")), ("1.2.3.4", "u"));
        assert_eq!((got.id.as_str(), got.text("direction")), ("", "agent_to_gateway"));
    }
    // A fourth is one too many; those that are there go on, and datagrams stay what they are, empty ones too.
    datagram(&mut control_plane, "dns", 4, b"too many").await;
    for wanted in [&b"again"[..], b"", &[7; 90]] {
        datagram(&mut control_plane, "dns", 1, wanted).await;
        let (length, address) = server.recv_from(&mut buffer).await.unwrap();
        assert_eq!((&buffer[..length], address), (wanted, from[0].1));
    }
}

#[tokio::test]
async fn a_session_ends_when_nothing_happens_and_begins_anew() {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let services = [("shop/dns:53", server.local_addr().unwrap())];
    let mut settings = Settings::default();
    settings.link.tunnels.udp.session_timeout = runtime::Duration::from_millis(100);
    let (mut control_plane, _api) = cluster_with(&services, settings).await;
    let mut buffer = [0; 100];
    datagram(&mut control_plane, "dns", 1, b"x").await;
    let (_, first) = server.recv_from(&mut buffer).await.unwrap();
    let begun = std::time::Instant::now();
    loop {
        assert!(begun.elapsed().as_secs() < 20, "the session lives on");
        // Longer than a session may be idle.
        let gone = async {
            let second = UdpSocket::bind(first).await;
            second.is_ok()
        };
        if gone.await {
            break;
        }
        control_plane.ping("a moment").await;
    }
    datagram(&mut control_plane, "dns", 1, b"y").await;
    let (_, _second) = server.recv_from(&mut buffer).await.unwrap();
    assert_eq!(buffer[0], b'y');
    // A port where nobody listens harms nobody.
    datagram(&mut control_plane, "nobody", 1, b"z").await;
    control_plane.ping("after it").await;
}

#[tokio::test]
async fn a_session_that_cannot_be_opened_is_not_tried_again_for_each_datagram() {
    let (mut control_plane, _api) = cluster().await;
    let begun = std::time::Instant::now();
    for _ in 0..200 {
        datagram(&mut control_plane, "nobody", 1, b"x").await;
    }
    control_plane.agent.measures(r#"pipeops_agent_udp_tunnel_errors_total{error_type="dropped"}"#, 200.0).await;
    let attempts = control_plane.agent.metric(r#"pipeops_agent_udp_tunnel_errors_total{error_type="dial_error"}"#);
    assert!(attempts >= 1.0 && attempts <= 1.0 + begun.elapsed().as_secs_f64(), "{attempts} attempts");
}
