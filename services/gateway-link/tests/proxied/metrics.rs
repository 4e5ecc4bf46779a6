//! What a scrape shows of what has come as messages, under the names of the existing agent.

use crate::backend::{Backend, Event};
use crate::{Settings, TOKEN, cluster, cluster_with};

#[tokio::test]
async fn websockets_are_counted_by_message_by_service_and_by_their_end() {
    let service = Backend::start().await;
    let services = [("shop/web:80", service.address)];
    let (mut control_plane, api) = cluster_with(&services, Settings::default()).await;
    let web = r#""service_name":"web","namespace":"shop","service_port":80,"is_websocket":true"#;
    control_plane.request("a", &format!(r#""path":"/echo",{web}"#)).await;
    assert_eq!(control_plane.of("a").await.payload["status"], 101);
    control_plane.agent.measures("agent_websocket_active_sessions", 1.0).await;
    control_plane.websocket("a", 1, b"four").await;
    control_plane.of("a").await;
    control_plane.websocket("a", 9, b"ping").await;
    control_plane.of("a").await;
    control_plane.websocket("a", 8, b"\x03\xe9").await;
    control_plane.of("a").await;
    assert_eq!(control_plane.of("a").await.kind, "proxy_websocket_close");
    control_plane.websocket("a", 1, b"to nobody").await;

    let forbidden = r#"{"stream_id":"c","path":"/api/v1/forbidden""#;
    control_plane.send("proxy_websocket_start", "c", &format!("{forbidden},{TOKEN}}}")).await;
    assert_eq!(control_plane.of("c").await.kind, "proxy_error");
    let exec = r#"{"stream_id":"b","path":"/api/v1/exec""#;
    control_plane.send("proxy_websocket_start", "b", &format!("{exec},{TOKEN}}}")).await;
    control_plane.websocket("b", 2, b"\0ls").await;
    control_plane.of("b").await;
    drop(api);
    assert_eq!(control_plane.of("b").await.kind, "proxy_websocket_close");

    control_plane.request("d", r#""path":"/elsewhere","is_websocket":true"#).await;
    assert_eq!(control_plane.of("d").await.kind, "proxy_error");

    for (name, wanted) in [
        (r#"agent_websocket_frames_total{direction="sent",type="data"}"#, 2.0),
        (r#"agent_websocket_frames_total{direction="sent",type="ping"}"#, 1.0),
        (r#"agent_websocket_frames_total{direction="sent",type="close"}"#, 1.0),
        (r#"agent_websocket_frames_total{direction="received",type="data"}"#, 2.0),
        (r#"agent_websocket_frames_total{direction="received",type="pong"}"#, 1.0),
        (r#"agent_websocket_frames_total{direction="received",type="close"}"#, 1.0),
        (r#"agent_websocket_frame_bytes_total{direction="sent"}"#, 4.0 + 4.0 + 2.0 + 3.0),
        ("agent_websocket_frame_bytes_histogram_count", 8.0),
        (r#"agent_websocket_frame_bytes_histogram_bucket{le="64"}"#, 8.0),
        (r#"agent_websocket_dropped_frames_total{reason="unknown"}"#, 1.0),
        ("agent_websocket_active_sessions", 0.0),
        ("agent_websocket_sessions_total", 2.0),
        ("agent_websocket_session_duration_seconds_count", 2.0),
        (r#"agent_websocket_session_close_total{code="1001"}"#, 1.0),
        (r#"agent_websocket_session_close_total{code="1006"}"#, 1.0),
        (r#"pipeops_agent_websocket_proxy_errors_total{error_type="refused"}"#, 1.0),
        (r#"pipeops_agent_websocket_proxy_errors_total{error_type="dial_error"}"#, 1.0),
        (r#"pipeops_agent_websocket_proxy_errors_total{error_type="copy_error"}"#, 1.0),
        (r#"pipeops_agent_websocket_proxy_bytes_to_service_total{namespace="shop",service="web"}"#, 10.0),
        (r#"pipeops_agent_websocket_proxy_bytes_from_service_total{namespace="shop",service="web"}"#, 10.0),
        (r#"pipeops_agent_websocket_proxy_bytes_to_service_total{namespace="default",service="kubernetes"}"#, 3.0),
        ("pipeops_agent_websocket_active_connections", 1.0),
    ] {
        control_plane.agent.measures(name, wanted).await;
    }
    for name in ["frames_sent_total{direction=\"out\"}", "bytes_received_total{direction=\"in\"}"] {
        assert!(control_plane.agent.metric(&format!("pipeops_agent_websocket_{name}")) > 1.0, "{name}");
    }
}

#[tokio::test]
async fn what_waits_shows_while_it_does() {
    let (mut control_plane, mut api) = cluster().await;
    let path = "/api/v1/stuck";
    control_plane.request("a", &format!(r#""method":"PUT","path":"{path}","use_streaming":true,{TOKEN}"#)).await;
    api.saw(Event::Begun(path.to_owned())).await;
    // How much is on its way before anything has to wait depends on the machine.
    let mut waiting = 0.0;
    for _ in 0..400 {
        control_plane.chunk("a", &[7; 64 * 1024]).await;
        control_plane.ping("behind it").await;
        waiting = control_plane.agent.metric("pipeops_agent_proxied_waiting_bytes");
        if waiting > 128e3 {
            break;
        }
    }
    assert!((128e3..256e3).contains(&waiting), "{waiting}");
    control_plane.send("proxy_cancel", "a", "{}").await;
    control_plane.agent.measures("pipeops_agent_proxied_waiting_bytes", 0.0).await;
}
