//! The forms in which a request's body comes, in order and out of it.

use serde_json::Value;

use crate::control_plane::{ControlPlane, base64};
use crate::{STREAMED, TOKEN, cluster};

async fn echo(control_plane: &mut ControlPlane, id: &str, fields: &str) {
    control_plane.request(id, &format!(r#""method":"POST","path":"/api/v1/echo",{TOKEN},{STREAMED},{fields}"#)).await;
}

#[tokio::test]
async fn each_form_of_a_body_arrives() {
    let (mut control_plane, _api) = cluster().await;
    for (id, fields, wanted) in [
        ("none", r#""body":null"#, ""),
        ("text", r#""body":"a \"b\" ü""#, "a \"b\" ü"),
        ("base64", r#""body":"AAH/gA==","body_encoding":"base64""#, "\0\u{1}"),
        ("json", r#""body":{"a":[1,2]}"#, r#"{"a":[1,2]}"#),
    ] {
        echo(&mut control_plane, id, fields).await;
        let (head, body) = control_plane.answer(id).await;
        assert!(body.starts_with(wanted.as_bytes()), "{id}: {body:?}");
        assert_eq!(head.payload["headers"]["X-Got-Content-Length"][0], Value::from(body.len().to_string()), "{id}");
    }
}

#[tokio::test]
async fn a_body_may_be_the_next_binary_message() {
    let (mut control_plane, _api) = cluster().await;
    let body: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    echo(&mut control_plane, "r1", r#""body_binary":true"#).await;
    echo(&mut control_plane, "r2", r#""body_binary":true"#).await;
    // Each names its request, so their order does not matter; those of nobody have no effect.
    control_plane.binary("unknown", b"x").await;
    control_plane.binary("r2", b"second").await;
    control_plane.binary("r1", &body).await;
    control_plane.binary("r1", b"again").await;
    assert_eq!(control_plane.answer("r2").await.1, b"second");
    assert!(control_plane.answer("r1").await.1 == body);
}

#[tokio::test]
async fn a_body_may_come_in_pieces() {
    let (mut control_plane, _api) = cluster().await;
    echo(&mut control_plane, "r1", r#""use_streaming":true,"body":"the first""#).await;
    let head = control_plane.of("r1").await;
    assert_eq!(head.kind, "proxy_response_header", "the answer does not wait for the body");
    let mut wanted = b"the first".to_vec();
    for n in 0..200u8 {
        let piece = vec![n; 3000];
        control_plane.chunk("r1", &piece).await;
        wanted.extend_from_slice(&piece);
    }
    let older = format!(r#"{{"chunk":"{}"}}"#, base64(b"in another word"));
    control_plane.send("proxy_stream_data", "r1", &older).await;
    wanted.extend_from_slice(b"in another word");
    control_plane.send("proxy_request_stream_end", "r1", "{}").await;
    let mut body = Vec::new();
    loop {
        let got = control_plane.of("r1").await;
        match got.kind.as_str() {
            "proxy_response_chunk" => body.extend(got.bytes("data")),
            "proxy_response_end" => break,
            _ => panic!("{got:?}"),
        }
    }
    assert!(body == wanted, "{} of {}", body.len(), wanted.len());
}

#[tokio::test]
async fn messages_out_of_order_harm_nobody() {
    let (mut control_plane, api) = cluster().await;
    control_plane.chunk("nobody", b"x").await;
    control_plane.send("proxy_request_stream_end", "nobody", "{}").await;
    control_plane.send("proxy_cancel", "nobody", "{}").await;
    control_plane.websocket("nobody", 1, b"x").await;
    control_plane.send("proxy_websocket_close", "nobody", r#"{"stream_id":"nobody"}"#).await;
    control_plane.send("tcp_tunnel_data", "nobody", r#"{"data":"eA=="}"#).await;
    control_plane.send("tcp_tunnel_close", "nobody", r#"{"reason":"x"}"#).await;
    control_plane.raw(r#"{"type":"proxy_cancel"}"#).await;
    assert!(control_plane.is_silent_about("nobody").await);

    let watch = format!(r#""path":"/api/v1/watch",{TOKEN},{STREAMED}"#);
    control_plane.request("r1", &watch).await;
    assert_eq!(control_plane.of("r1").await.kind, "proxy_response_header");
    // A second request of that name does not replace the first, and what its body has no use for does not end it.
    control_plane.request("r1", &watch).await;
    let got = control_plane.of("r1").await;
    assert!(got.kind == "proxy_error" && got.error().contains("under way already"), "{got:?}");
    control_plane.chunk("r1", b"late").await;
    control_plane.send("proxy_request_stream_end", "r1", "{}").await;
    control_plane.binary("r1", b"late").await;
    api.say.send("still here".into()).await.unwrap();
    assert_eq!(control_plane.of("r1").await.bytes("data"), b"still here");
}

#[tokio::test]
async fn messages_that_cannot_be_read_end_their_exchange_and_no_other() {
    let (mut control_plane, mut api) = cluster().await;
    control_plane.request("watch", &format!(r#""path":"/api/v1/watch",{TOKEN},{STREAMED}"#)).await;
    assert_eq!(control_plane.of("watch").await.kind, "proxy_response_header");

    control_plane.raw("no JSON").await;
    control_plane.raw(r#"{"type":7}"#).await;
    control_plane.send("proxy_request", "r0", r#"{"method":7}"#).await;
    let got = control_plane.of("r0").await;
    assert!(got.kind == "proxy_error" && got.error().contains("proxy_request"), "{got:?}");
    control_plane.send("proxy_request", "r1", r#"{"path":"/api","body":"!","body_encoding":"base64"}"#).await;
    let got = control_plane.of("r1").await;
    assert!(got.kind == "proxy_error" && got.error().contains("base64"), "{got:?}");

    let stuck = "/api/v1/stuck";
    control_plane.request("r2", &format!(r#""method":"PUT","path":"{stuck}","use_streaming":true,{TOKEN}"#)).await;
    api.saw(crate::backend::Event::Begun(stuck.to_owned())).await;
    control_plane.send("proxy_request_chunk", "r2", r#"{"data":"not base64!"}"#).await;
    let got = control_plane.of("r2").await;
    assert!(got.kind == "proxy_error" && got.error().contains("proxy_request_chunk"), "{got:?}");
    api.read.notify_one();
    api.saw(crate::backend::Event::Cancelled(stuck.to_owned())).await;

    // A JSON message may be a binary one, too.
    control_plane.binary_text(r#"{"type":"ping","request_id":"p","payload":{}}"#).await;
    assert_eq!(control_plane.next("pong").await.id, "p");
    api.say.send("still here".into()).await.unwrap();
    assert_eq!(control_plane.of("watch").await.bytes("data"), b"still here");
}
