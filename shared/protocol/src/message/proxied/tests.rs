use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::{AgentMessage, ControlMessage};

fn command(kind: &str, payload: &str) -> ProxyCommand {
    let text = format!(r#"{{"type":"{kind}","request_id":"r","payload":{payload}}}"#);
    match ControlMessage::parse(&text).unwrap() {
        (Some(_), ControlMessage::Proxy(command)) => command,
        other => panic!("{other:?}"),
    }
}

fn request(payload: &str) -> ProxyRequest {
    match command("proxy_request", payload) {
        ProxyCommand::Request(request) => *request,
        other => panic!("{other:?}"),
    }
}

fn reply(kind: &str, payload: &str) -> ProxyReply {
    match AgentMessage::parse(&format!(r#"{{"type":"{kind}","payload":{payload}}}"#)).unwrap().1 {
        AgentMessage::Proxy(reply) => reply,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_body_is_read_in_each_of_its_forms() {
    let body = |payload: &str| request(payload).body();
    assert_eq!(body(r#"{"body":"a b"}"#).unwrap(), Body::Here("a b".into()));
    assert_eq!(body(r#"{"body":"AAH/","body_encoding":"base64"}"#).unwrap(), Body::Here(b"\0\x01\xff"[..].into()));
    assert_eq!(body(r#"{"body":{"kind":"Pod"}}"#).unwrap(), Body::Here(r#"{"kind":"Pod"}"#.into()));
    assert_eq!(body("{}").unwrap(), Body::Here(Bytes::new()));
    assert_eq!(body(r#"{"body_binary":true,"body_size":3}"#).unwrap(), Body::NextBinary);
    assert_eq!(body(r#"{"streaming":true}"#).unwrap(), Body::Chunks);
    assert!(body(r#"{"body":"%","body_encoding":"base64"}"#).is_err() && body(r#"{"body":7}"#).is_err());
}

#[test]
fn headers_have_one_value_or_several() {
    let request = request(r#"{"headers":{"Accept":["a","b"],"X-One":"1"}}"#);
    let map = request.headers.to_map().unwrap();
    assert_eq!(map.get_all("accept").iter().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!((map.get("x-one").unwrap(), request.headers.get("x-ONE")), (&"1".parse().unwrap(), Some("1")));
    let back = serde_json::to_string(&Headers::from(&map)).unwrap();
    assert_eq!(back, r#"{"Accept":["a","b"],"X-One":["1"]}"#);
    let bad: Headers = serde_json::from_str(r#"{"a b":"1"}"#).unwrap();
    assert!(bad.to_map().is_err());
}

#[test]
fn the_time_a_request_has_is_read_in_each_of_its_forms() {
    let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let left = |payload: &str| request(payload).time_left(now).map(|left| left.as_millis());
    assert_eq!(left(r#"{"deadline":"2026-01-01T00:00:01.5Z","timeout":9}"#), Some(1500));
    assert_eq!(left(r#"{"deadline":"2025-01-01T00:00:00Z"}"#), Some(0), "it is over");
    assert_eq!(left(r#"{"timeout":250}"#), Some(250));
    assert_eq!(left(r#"{"timeout":"1m30s"}"#), Some(90_000));
    assert_eq!((left("{}"), left(r#"{"timeout":"soon"}"#), left(r#"{"timeout":0}"#)), (None, None, None));
}

#[test]
fn other_names_and_forms_of_a_request_count_too() {
    let odd = request(r#"{"isWebSocket":true,"useZeroCopy":true,"headData":[1,255],"service_port":"80"}"#);
    assert!(odd.is_websocket && odd.use_zero_copy && odd.wants_websocket());
    assert_eq!((odd.head_data().unwrap(), odd.service_port), (b"\x01\xff"[..].into(), Some(80)));
    assert_eq!(request(r#"{"head_data":"AAE="}"#).head_data().unwrap(), b"\0\x01"[..]);
    assert_eq!(request(r#"{"head_data":"GET /"}"#).head_data().unwrap(), "GET /");
    assert!(request(r#"{"head_data":[256]}"#).head_data().is_err());
    assert!(request(r#"{"headers":{"Upgrade":"WebSocket"}}"#).wants_websocket());
    assert!(request(r#"{"protocol":"v4.channel.k8s.io"}"#).wants_websocket());
    assert!(!request(r#"{"headers":{"Accept":"a"}}"#).wants_websocket());
    assert_eq!(command("proxy_request_chunk", r#"{"chunk":"YQ=="}"#), ProxyCommand::Chunk("a".into()));
    assert_eq!(command("proxy_stream_data", r#"{"data":"YQ=="}"#), ProxyCommand::Chunk("a".into()));
    for (older, newer) in [("ws_data", "proxy_websocket_data"), ("ws_close", "proxy_websocket_close")] {
        let payload = r#"{"stream_id":"s","data":"AWhp"}"#;
        assert_eq!(command(older, payload), command(newer, payload));
    }
}

#[test]
fn an_answer_is_read_under_its_older_name_too() {
    let head = ResponseHead { status: 200, headers: Headers::default() };
    assert_eq!(reply("proxy_response_start", r#"{"status_code":200}"#), ProxyReply::Head(head.clone()));
    assert_eq!(reply("proxy_response_header", r#"{"status":200,"headers":{}}"#), ProxyReply::Head(head));
    let ProxyReply::Whole(whole) = reply("proxy_response", r#"{"status":200,"body":"aGk=","encoding":"base64"}"#)
    else {
        panic!("no whole response");
    };
    assert_eq!(whole.bytes().unwrap(), WholeBody::Plain("hi".into()));
}

#[test]
fn binary_messages_are_taken_apart() {
    let frame = Bytes::from_static(b"\0\x02r1body");
    assert_eq!(ProxyCommand::binary_body(&frame).unwrap(), ("r1", "body".into()));
    let frame = Bytes::from_static(b"\0\x02r1\0\0\0\xc8\0\0\0\x0c{\"A\":[\"b\"] } rest");
    let (id, head, body) = ProxyReply::binary_response(&frame).unwrap();
    assert_eq!((id, head.status, head.headers.get("a"), body), ("r1", 200, Some("b"), " rest".into()));
    for cut in 0..frame.len() - 5 {
        assert!(ProxyReply::binary_response(&frame.slice(..cut)).is_err(), "{cut}");
    }
}

#[test]
fn a_websocket_message_keeps_its_kind() {
    let data = WebSocketData::new("s", Opcode::Binary, b"\0x");
    assert_eq!(serde_json::to_string(&data).unwrap(), r#"{"stream_id":"s","data":"AgB4"}"#);
    assert_eq!(data.parts().unwrap(), (Opcode::Binary, b"\0x"[..].into()));
    let bare = WebSocketData { message_type: Some(1), data: Base64("hello".into()), ..data.clone() };
    assert_eq!(bare.parts().unwrap(), (Opcode::Text, "hello".into()));
    let named = WebSocketData { message_type: Some(2), ..data.clone() };
    assert_eq!(named.parts().unwrap(), data.parts().unwrap());
    let empty = WebSocketData { data: Base64::default(), ..data.clone() };
    let odd = WebSocketData { data: Base64(b"\x07"[..].into()), ..data };
    assert!(empty.parts().is_err() && odd.parts().is_err());
}

proptest! {
    #[test]
    fn no_binary_message_makes_the_readers_panic(bytes: Vec<u8>) {
        let frame = Bytes::from(bytes);
        let _ = (ProxyCommand::binary_body(&frame), ProxyReply::binary_response(&frame));
    }

    #[test]
    fn any_fields_of_a_request_can_be_asked_for(body in ".{0,30}", head in ".{0,30}", time in ".{0,20}") {
        let request = ProxyRequest {
            body: Some(body.into()),
            head_data: Some(head.into()),
            deadline: Some(time.clone()),
            timeout: Some(time.into()),
            body_encoding: Some("base64".into()),
            ..ProxyRequest::default()
        };
        let _ = (request.body(), request.head_data(), request.time_left(Timestamp::UNIX_EPOCH), request.wants_websocket());
    }
}

#[test]
fn headers_that_are_null_are_none() {
    assert_eq!(request(r#"{"path":"/","headers":null}"#).headers, Headers::default());
    let headers = request(r#"{"headers":{"A":null,"B":"1","C":[]}}"#).headers.to_map().unwrap();
    assert_eq!((headers.len(), headers.get("b").unwrap().as_bytes()), (1, &b"1"[..]));
}
