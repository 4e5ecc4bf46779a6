//! The same over the bus that a cluster has.

use bus::{Bus, Options, Service, Status};
use tokio::net::TcpListener;

use crate::agent::Agent;
use crate::backend::{Backend, Event, large};
use crate::control_plane::{ControlPlane, LIMIT};
use crate::server::Server;
use crate::{STREAMED, Settings, TOKEN};

async fn connect(url: &str, service: Service) -> Bus {
    let bus = Bus::connect(&Options { url: url.to_owned(), ..Options::default() }, service).await.unwrap();
    let mut status = bus.status();
    tokio::time::timeout(LIMIT, status.wait_for(|status| *status == Status::Connected)).await.unwrap().unwrap();
    bus
}

#[tokio::test]
async fn requests_and_commands_go_over_nats() {
    let server = Server::start(None).await;
    let url = server.url();
    let buses = [
        connect(&url, Service::StateKeeper).await,
        connect(&url, Service::ProxyExecutor).await,
        connect(&url, Service::GatewayLink).await,
    ];
    let mut api = Backend::start().await;
    let service = Backend::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let services = [("shop/web:80", service.address)];
    let agent = Agent::on(buses, address, api.address, &services, Settings::default()).await;
    let mut control_plane = ControlPlane::accept(listener, agent).await;

    let fields = format!(r#""path":"/api/v1/large",{TOKEN},{STREAMED}"#);
    let begun = std::time::Instant::now();
    // The executor may not listen yet.
    let mut attempt = 0;
    let first = loop {
        let id = format!("r1-{attempt}");
        control_plane.request(&id, &fields).await;
        let got = control_plane.peek(&id).await;
        if got.kind == "proxy_response_header" {
            break id;
        }
        assert!(begun.elapsed() < LIMIT && got.error().contains("no proxy-executor"), "{got:?}");
        attempt += 1;
    };
    assert!(control_plane.answer(&first).await.1 == large());

    let web = r#""service_name":"web","namespace":"shop","service_port":80"#;
    control_plane
        .request("r2", &format!(r#""method":"POST","path":"/echo","use_streaming":true,{web},{STREAMED}"#))
        .await;
    control_plane.chunk("r2", b"in ").await;
    control_plane.chunk("r2", b"pieces").await;
    control_plane.send("proxy_request_stream_end", "r2", "{}").await;
    assert_eq!(control_plane.answer("r2").await.1, b"in pieces");

    let exec = format!(r#"{{"stream_id":"s1","path":"/api/v1/namespaces/a/pods/p/exec",{TOKEN}}}"#);
    control_plane.send("proxy_websocket_start", "s1", &exec).await;
    control_plane.websocket("s1", 1, b"ls").await;
    assert_eq!(control_plane.of("s1").await.bytes("data"), b"\x02\x01\0ls");

    control_plane.request("r3", &format!(r#""path":"/api/v1/watch",{TOKEN},{STREAMED}"#)).await;
    api.saw(Event::Begun("/api/v1/watch".to_owned())).await;
    control_plane.send("proxy_cancel", "r3", "{}").await;
    api.saw(Event::Cancelled("/api/v1/watch".to_owned())).await;
}
