//! WebSockets: commands in pods, and those of applications.

use serde_json::Value;

use crate::backend::Backend;
use crate::control_plane::{ControlPlane, Got, base64};
use crate::{Settings, TOKEN, cluster, cluster_with};

const EXEC: &str = "/api/v1/namespaces/a/pods/p/exec";

async fn start(control_plane: &mut ControlPlane, id: &str, fields: &str) {
    let payload = format!(r#"{{"stream_id":"{id}","method":"GET",{TOKEN},{fields}}}"#);
    control_plane.send("proxy_websocket_start", id, &payload).await;
}

/// Opcode and bytes of the next message of a WebSocket.
async fn message(control_plane: &mut ControlPlane, id: &str) -> (u8, Vec<u8>) {
    let got = control_plane.of(id).await;
    assert_eq!((got.kind.as_str(), got.text("stream_id")), ("proxy_websocket_data", id), "{got:?}");
    let data = got.bytes("data");
    let (opcode, bytes) = data.split_first().unwrap();
    (*opcode, bytes.to_vec())
}

async fn closed(control_plane: &mut ControlPlane, id: &str) -> Got {
    let got = control_plane.of(id).await;
    assert_eq!((got.kind.as_str(), got.text("stream_id")), ("proxy_websocket_close", id), "{got:?}");
    got
}

#[tokio::test]
async fn a_command_has_its_channels_and_its_exit_status() {
    let (mut control_plane, _api) = cluster().await;
    start(&mut control_plane, "s1", &format!(r#""path":"{EXEC}","query":"command=sh""#)).await;
    // What comes before it is open waits, and text is the keyboard.
    control_plane.websocket("s1", 1, "ls ü\n".as_bytes()).await;
    control_plane.websocket("s1", 2, b"\0\x01\x02\xff").await;
    assert_eq!(message(&mut control_plane, "s1").await, (2, "\u{1}\0ls ü\n".as_bytes().to_vec()));
    assert_eq!(message(&mut control_plane, "s1").await, (2, b"\x01\0\x01\x02\xff".to_vec()), "binary is as it was");
    control_plane.websocket("s1", 1, b"exit").await;
    assert_eq!(message(&mut control_plane, "s1").await, (2, b"\x03{\"status\":\"Failure\",\"code\":7}".to_vec()));
    assert_eq!(message(&mut control_plane, "s1").await, (8, b"\x03\xe8done".to_vec()));
    assert_eq!(closed(&mut control_plane, "s1").await.payload["error"], Value::Null);
    control_plane.websocket("s1", 1, b"late").await;
    assert!(control_plane.is_silent_about("s1").await);
}

#[tokio::test]
async fn the_newest_channels_are_offered_unless_the_client_says_otherwise() {
    let api = Backend::start().await;
    let services = [("shop/web:80", api.address)];
    let (mut control_plane, _api) = cluster_with(&services, Settings::default()).await;
    // An application's answer shows what was asked for.
    let web = r#""service_name":"web","namespace":"shop","service_port":80"#;
    for (fields, wanted) in [
        (r#""protocol":"b","headers":{"Sec-WebSocket-Protocol":"a, b"}"#, Value::from("b, a")),
        (r#""is_websocket":true,"headers":{"Sec-WebSocket-Extensions":"permessage-deflate"}"#, Value::Null),
    ] {
        control_plane.request("a", &format!(r#""path":"/x/exec",{web},{fields}"#)).await;
        let got = control_plane.of("a").await;
        assert_eq!(got.payload["status"], Value::from(101));
        let headers = &got.payload["headers"];
        let asked = &headers["X-Got-Sec-Websocket-Protocol"];
        assert_eq!(asked.get(0).cloned().unwrap_or(Value::Null), wanted, "{headers}");
        assert_eq!(headers["X-Got-Sec-Websocket-Extensions"], Value::Null);
        control_plane.send("proxy_websocket_close", "a", r#"{"stream_id":"a"}"#).await;
        control_plane.gone("a").await;
    }
    // Without channels, text is text.
    start(&mut control_plane, "s1", r#""path":"/api/v1/echo","protocol":"other""#).await;
    control_plane.websocket("s1", 1, b"text").await;
    assert_eq!(message(&mut control_plane, "s1").await, (1, b"text".to_vec()));
    // The names of older peers, and a request that is a WebSocket.
    let start = format!(r#"{{"stream_id":"s2","path":"{EXEC}",{TOKEN}}}"#);
    control_plane.send("ws_start", "", &start).await;
    let data = format!(r#"{{"stream_id":"s2","data":"{}"}}"#, base64(b"\x01hi"));
    control_plane.send("ws_data", "", &data).await;
    assert_eq!(message(&mut control_plane, "s2").await, (2, b"\x01\0hi".to_vec()));
    control_plane.request("s3", &format!(r#""path":"{EXEC}","isWebSocket":true,{TOKEN}"#)).await;
    control_plane.websocket("s3", 1, b"hi").await;
    assert_eq!(message(&mut control_plane, "s3").await, (2, b"\x01\0hi".to_vec()));
}

#[tokio::test]
async fn a_websocket_that_is_not_opened_is_an_error_with_the_reason() {
    let (mut control_plane, _api) = cluster().await;
    start(&mut control_plane, "s1", r#""path":"/api/v1/forbidden""#).await;
    let got = control_plane.of("s1").await;
    assert_eq!((got.kind.as_str(), got.text("request_id")), ("proxy_error", "s1"));
    assert!(got.error().contains("403") && got.error().contains("not you"), "{got:?}");
    start(&mut control_plane, "s1", r#""path":"/api/v1/nosocket""#).await;
    let got = control_plane.of("s1").await;
    assert!(got.kind == "proxy_error" && got.error().contains("200"), "an answer without an end: {got:?}");
    for path in ["/other", "/api/../x", "/api/%2e%2e/x", r"/api/\\x"] {
        start(&mut control_plane, "s2", &format!(r#""path":"{path}""#)).await;
        assert_eq!(control_plane.of("s2").await.kind, "proxy_error", "{path}");
    }
    control_plane.send("proxy_websocket_start", "", r#"{"path":"/api"}"#).await;
    assert!(control_plane.any().await.error().contains("stream_id"));
}

#[tokio::test]
async fn thousands_of_messages_keep_their_order() {
    let (mut control_plane, _api) = cluster().await;
    start(&mut control_plane, "s1", &format!(r#""path":"{EXEC}""#)).await;
    for n in 0..3000u32 {
        control_plane.websocket("s1", 2, &[&[0], &n.to_be_bytes()[..]].concat()).await;
    }
    for n in 0..3000u32 {
        let wanted = [&[1, 0], &n.to_be_bytes()[..]].concat();
        assert_eq!(message(&mut control_plane, "s1").await, (2, wanted));
    }
}

#[tokio::test]
async fn messages_that_are_not_taken_end_their_websocket() {
    let mut settings = Settings::default();
    settings.link.proxied.waiting = 256 * 1024;
    let (mut control_plane, _api) = cluster_with(&[], settings).await;
    start(&mut control_plane, "s1", r#""path":"/api/v1/deaf""#).await;
    let mut warned = 0;
    let end = loop {
        control_plane.websocket("s1", 2, &[0; 60 * 1024]).await;
        control_plane.ping("after a message").await;
        match control_plane.waiting_of("s1") {
            Some(got) if got.kind == "backpressure" => warned += 1,
            Some(got) => break got,
            None => {}
        }
    };
    assert_eq!((end.kind.as_str(), warned), ("proxy_websocket_close", 1), "{end:?}");
    assert!(end.error().contains("proxied.waiting"), "{end:?}");
}

#[tokio::test]
async fn a_websocket_that_breaks_says_so() {
    let (mut control_plane, api) = cluster().await;
    start(&mut control_plane, "s1", &format!(r#""path":"{EXEC}""#)).await;
    control_plane.websocket("s1", 1, b"hi").await;
    message(&mut control_plane, "s1").await;
    drop(api);
    let end = closed(&mut control_plane, "s1").await;
    assert!(end.payload["error"].is_string(), "{end:?}");
}

#[tokio::test]
async fn an_applications_websocket_is_as_the_application_makes_it() {
    let service = Backend::start().await;
    let services = [("shop/web:80", service.address)];
    let (mut control_plane, _api) = cluster_with(&services, Settings::default()).await;
    let web = r#""service_name":"web","namespace":"shop","service_port":80"#;
    // The client's own key, and a frame that came behind its handshake: "early", masked with zeros.
    let early = base64(b"\x81\x85\0\0\0\0early");
    let headers =
        r#""headers":{"Upgrade":"websocket","Connection":"Upgrade","Sec-WebSocket-Key":"dGhlIHNhbXBsZSBub25jZQ=="}"#;
    control_plane.request("a1", &format!(r#""path":"/echo","head_data":"{early}",{web},{headers}"#)).await;
    let got = control_plane.of("a1").await;
    assert_eq!((got.kind.as_str(), &got.payload["status"]), ("proxy_response", &Value::from(101)));
    let headers = &got.payload["headers"];
    assert_eq!(headers["Sec-Websocket-Accept"][0], Value::from("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(headers["Upgrade"][0], Value::from("websocket"));
    assert_eq!(message(&mut control_plane, "a1").await, (1, b"early".to_vec()));
    control_plane.websocket("a1", 2, b"\x00binary").await;
    let got = control_plane.of("a1").await;
    assert_eq!((got.text("request_id"), &got.payload["message_type"]), ("a1", &Value::from(2)));
    assert_eq!(got.bytes("data"), b"\x02\x00binary");
    control_plane.websocket("a1", 8, b"\x0f\xa0bye").await;
    assert_eq!(message(&mut control_plane, "a1").await, (8, b"\x0f\xa0bye".to_vec()), "close codes are kept");
    closed(&mut control_plane, "a1").await;

    control_plane.request("a2", &format!(r#""path":"/forbidden","is_websocket":true,{web}"#)).await;
    let got = control_plane.of("a2").await;
    assert_eq!((got.kind.as_str(), &got.payload["status"]), ("proxy_response", &Value::from(403)));
    assert_eq!(got.bytes("body"), b"not you");
}
