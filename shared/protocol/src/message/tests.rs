use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::id::{AgentId, ClusterId};
use crate::{ParseError, RequestId};

/// Messages of the existing agent and of a peer of it, as recorded: one JSON message a line.
const RECORDED: &str = include_str!("recorded.jsonl");

fn recorded(kind: &str) -> &'static str {
    let kind = format!(r#"{{"type": "{kind}""#);
    RECORDED.lines().find(|line| line.starts_with(&kind)).unwrap()
}

fn fields(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn the_existing_agents_messages_are_read() {
    let (id, message) = AgentMessage::parse(recorded("register")).unwrap();
    assert_eq!(id, Some(RequestId::from("req_1795242658101124931_agent-a24174672b98d81c")));
    let AgentMessage::Register(register) = message else { panic!("{message:?}") };
    assert_eq!(register.agent_id.as_str(), "agent-a24174672b98d81c");
    assert_eq!((register.name.as_str(), register.k8s_version.as_str()), ("lab", "v1.36.3"));
    assert!(register.features.supports_gateway && register.features.supports_response_streaming);
    assert_eq!(register.server_specs.cpu_cores.as_ref().and_then(serde_json::Number::as_u64), Some(2));
    assert_eq!(register.metadata.as_ref().unwrap().registration_mode, "fresh");
    assert!(register.k8s_service_token.is_some() && register.capabilities.is_empty());

    let (id, message) = AgentMessage::parse(recorded("heartbeat")).unwrap();
    assert_eq!(id, None);
    let AgentMessage::Heartbeat(heartbeat) = message else { panic!("{message:?}") };
    assert_eq!((heartbeat.cluster_id.as_str(), heartbeat.status.as_str()), ("c-1", "healthy"));
    assert_eq!((heartbeat.metadata.k8s_nodes, heartbeat.metadata.is_private), (Some(1), true));

    let (_, message) = AgentMessage::parse(recorded("gateway_hello_ack")).unwrap();
    assert_eq!(message, AgentMessage::GatewayHelloAck(GatewayHelloAck { use_yamux: true, capabilities: vec![] }));
    let (id, message) = AgentMessage::parse(recorded("pong")).unwrap();
    assert_eq!(id.as_deref(), Some("ping1"));
    assert!(matches!(message, AgentMessage::Pong(pong) if pong.timestamp.starts_with("2026-11-21T")));
    let (_, message) = AgentMessage::parse(recorded("protocol_fallback")).unwrap();
    let AgentMessage::ProtocolFallback(fallback) = message else { panic!("{message:?}") };
    assert_eq!((fallback.unknown_type.as_str(), fallback.supported_types.len()), ("nosuch_type", 17));
    let (_, message) = AgentMessage::parse(recorded("proxy_response_end")).unwrap();
    assert_eq!(message, AgentMessage::Proxy(proxied::ProxyReply::End));
}

#[test]
fn what_the_existing_agent_is_sent_is_read() {
    let (id, message) = ControlMessage::parse(recorded("register_success")).unwrap();
    assert_eq!(id.as_deref(), Some("req_1795242658101124931_agent-a24174672b98d81c"));
    let ControlMessage::RegisterSuccess(success) = message else { panic!("{message:?}") };
    assert_eq!(success.cluster_id().unwrap().as_str(), "c-1");
    assert_eq!(success.gateway_cluster().unwrap().as_str(), "11111111-2222-3333-4444-555555555555");
    assert_eq!(success.gateway_ws_url.as_deref(), Some("ws://10.244.0.1:9900"));
    assert_eq!(ControlMessage::parse(recorded("ping")).unwrap(), (Some("ping1".into()), ControlMessage::Ping));
    let (_, message) = ControlMessage::parse(recorded("gateway_hello")).unwrap();
    assert!(matches!(message, ControlMessage::GatewayHello(hello) if hello.use_yamux && hello.capabilities.is_empty()));
    let (_, message) = ControlMessage::parse(recorded("nosuch_type")).unwrap();
    assert_eq!(message, ControlMessage::Unknown { kind: "nosuch_type".into() });
}

#[test]
fn our_register_has_every_field_that_the_existing_agent_sends() {
    let (id, message) = AgentMessage::parse(recorded("register")).unwrap();
    let mut ours = fields(&message.encode(id.as_deref()));
    let mut theirs = fields(recorded("register"));
    for message in [&mut ours, &mut theirs] {
        message.as_object_mut().unwrap().remove("timestamp");
    }
    assert_eq!(ours, theirs);
}

#[test]
fn a_heartbeat_keeps_what_it_does_not_know() {
    let text = r#"{"type":"heartbeat","payload":{"cluster_id":"c","agent_id":"a","loki_url":"http://loki","metadata":{"gpu":1}}}"#;
    let (_, message) = AgentMessage::parse(text).unwrap();
    let again = fields(&message.encode(None));
    assert_eq!(again["payload"]["loki_url"], "http://loki");
    assert_eq!(again["payload"]["metadata"]["gpu"], 1);
    assert!(again.get("request_id").is_none(), "{again}");
}

#[test]
fn the_cluster_id_is_accepted_in_the_five_places_and_nowhere_else() {
    let id_of = |message: String| match ControlMessage::parse(&message).unwrap().1 {
        ControlMessage::RegisterSuccess(success) => success.cluster_id(),
        other => panic!("{other:?}"),
    };
    let places = [
        r#""cluster_id":"ID""#,
        r#""cluster_uuid":"ID""#,
        r#""cluster":{"uuid":"ID"}"#,
        r#""cluster":{"id":"ID"}"#,
        r#""data":{"cluster_id":"ID"}"#,
    ];
    for (at, place) in places.iter().enumerate() {
        let payload = id_of(format!(r#"{{"type":"register_success","payload":{{{place}}}}}"#));
        assert_eq!(payload.unwrap().as_str(), "ID", "{place}");
        let top = id_of(format!(r#"{{"type":"register_success",{place}}}"#));
        assert_eq!(top.unwrap().as_str(), "ID", "{place}");
        for later in places.get(at + 1..).unwrap() {
            // Both inside "cluster": not two members of the same name.
            if place.contains("uuid\":\"ID\"}") && later.contains("\"id\"") {
                continue;
            }
            let both = format!("{place},{}", later.replace("ID", "OTHER"));
            let preferred = id_of(format!(r#"{{"type":"register_success","payload":{{{both}}}}}"#));
            assert_eq!(preferred.unwrap().as_str(), "ID", "{both}");
        }
    }
    for nowhere in [
        r#""agent_id":"ID""#,
        r#""cluster":"ID""#,
        r#""cluster_id":7"#,
        r#""cluster_id":"""#,
        r#""cluster_id":null"#,
        r#""data":{"cluster_uuid":"ID"}"#,
        r#""cluster_id":["ID"]"#,
    ] {
        let error =
            id_of(format!(r#"{{"type":"register_success","payload":{{{nowhere},"token":"SEKRIT"}}}}"#)).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("no cluster UUID found in registration response: {"), "{text}");
        assert!(text.contains("***") && !text.contains("SEKRIT"), "{text}");
    }
    let error = id_of(r#"{"type":"register_success","payload":{"cluster_id":"a b"}}"#.into()).unwrap_err();
    assert!(matches!(error, RegistrationError::InvalidClusterId { .. }), "{error:?}");
}

#[test]
fn a_registration_made_here_is_accepted_there() {
    let mut success = RegisterSuccess::new(&ClusterId::new("c-1").unwrap());
    success.token = Some(crate::Secret::new("t"));
    success.capabilities = vec![crate::capability::STREAMS_2.into()];
    let text = ControlMessage::RegisterSuccess(Box::new(success.clone())).encode(Some("r"));
    let (id, message) = ControlMessage::parse(&text).unwrap();
    let ControlMessage::RegisterSuccess(read) = message else { panic!("{message:?}") };
    assert_eq!(id.as_deref(), Some("r"));
    assert!(!read.response.contains("\"t\""), "{}", read.response);
    assert_eq!(*read, RegisterSuccess { response: read.response.clone(), ..success });
}

#[test]
fn what_is_not_a_message_is_an_error_that_shows_no_secret() {
    for bad in
        ["", "{", "[]", "null", "7", "{}", r#"{"type":7}"#, r#"{"type":"a","type":"b"}"#, r#"{"type":"x"} trailing"#]
    {
        assert!(matches!(ControlMessage::parse(bad), Err(ParseError::Envelope { .. })), "{bad}");
        assert!(matches!(AgentMessage::parse(bad), Err(ParseError::Envelope { .. })), "{bad}");
    }
    let error = ControlMessage::parse(r#"{"type":"register_success","payload":{"token":"SEKRIT"#).unwrap_err();
    assert!(!error.to_string().contains("SEKRIT") && error.to_string().contains("register_success"), "{error}");
    let error = AgentMessage::parse(r#"{"type":"register","payload":{"name":"x"}}"#).unwrap_err();
    assert_eq!(error.to_string(), r#"payload of message "register" is not valid"#);
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("agent_id"));
}

#[test]
fn an_absent_payload_is_an_empty_one() {
    for text in [
        r#"{"type":"gateway_hello"}"#,
        r#"{"type":"gateway_hello","payload":null}"#,
        r#"{"type":"gateway_hello","payload":{}}"#,
    ] {
        let (id, message) = ControlMessage::parse(text).unwrap();
        assert_eq!((id, message), (None, ControlMessage::GatewayHello(GatewayHello::default())), "{text}");
    }
    assert_eq!(ControlMessage::parse(r#"{"type":"ping","request_id":""}"#).unwrap(), (None, ControlMessage::Ping));
}

#[test]
fn deep_nesting_is_refused_and_not_followed() {
    let deep = format!(r#"{{"type":"heartbeat","payload":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert!(AgentMessage::parse(&deep).is_err());
    let success = format!(
        r#"{{"type":"register_success","payload":{{"cluster_id":"c","x":{}{}}}}}"#,
        "[".repeat(1000),
        "]".repeat(1000)
    );
    assert!(ControlMessage::parse(&success).is_err());
}

#[test]
fn only_a_lost_registration_asks_for_another() {
    assert!(ErrorReport::new("Cluster Not Found").asks_for_registration());
    assert!(ErrorReport::new("agent is not registered here").asks_for_registration());
    assert!(!ErrorReport::new("invalid heartbeat").asks_for_registration());
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "(?s).{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        let key = prop_oneof![
            prop::sample::select(vec![
                "cluster_id",
                "cluster_uuid",
                "cluster",
                "uuid",
                "id",
                "data",
                "agent_id",
                "token",
                "capabilities",
                "use_yamux",
                "metadata",
                "labels",
                "server_specs",
                "features",
                "error",
                "drain_ms",
                "yamux_config",
                "workspace_id",
                "timestamp",
                "headers",
                "body",
                "stream_id",
                "tunnels",
                "proxy",
            ])
            .prop_map(str::to_owned),
            "[a-z_]{1,6}",
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(key, inner, 0..5).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn kind() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "register",
            "heartbeat",
            "gateway_hello_ack",
            "pong",
            "ping",
            "protocol_fallback",
            "go_away",
            "register_success",
            "register_in_progress",
            "heartbeat_ack",
            "gateway_hello",
            "error",
            "token_refresh",
            "config_push",
            "config_ack",
            "proxy_request",
            "proxy_response",
            "tcp_tunnel_data",
            "udp_tunnel_data",
            "proxy_websocket_data",
        ])
        .prop_map(str::to_owned),
        "(?s).{0,10}",
    ]
}

proptest! {
    #[test]
    fn no_text_makes_the_parsers_panic(text in "(?s).{0,200}") {
        let _ = (AgentMessage::parse(&text), ControlMessage::parse(&text));
    }

    #[test]
    fn any_payload_is_read_or_refused(kind in kind(), payload in json(), id in proptest::option::of("(?s).{0,8}")) {
        let text = crate::envelope::encode(&kind, id.as_deref(), &payload);
        let expected = id.as_deref().filter(|id| !id.is_empty()).map(RequestId::from);
        if let Ok((id, message)) = ControlMessage::parse(&text) {
            prop_assert_eq!(&id, &expected);
            prop_assert_eq!(message.kind(), kind.as_str());
            if let ControlMessage::RegisterSuccess(success) = &message {
                let _ = (success.cluster_id(), success.gateway_cluster());
            }
            ControlMessage::parse(&message.encode(None)).unwrap();
        }
        if let Ok((id, message)) = AgentMessage::parse(&text) {
            prop_assert_eq!(&id, &expected);
            prop_assert_eq!(message.kind(), kind.as_str());
            let (_, again) = AgentMessage::parse(&message.encode(None)).unwrap();
            prop_assert_eq!(again, message);
        }
    }

    #[test]
    fn a_recorded_message_with_a_changed_byte_never_panics(line in 0usize..12, at: prop::sample::Index, to: u8) {
        let lines: Vec<_> = RECORDED.lines().collect();
        let mut bytes = lines[line % lines.len()].as_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = to;
        if let Ok(text) = String::from_utf8(bytes) {
            let _ = (AgentMessage::parse(&text), ControlMessage::parse(&text));
        }
    }

    #[test]
    fn a_cut_message_is_an_error(line in 0usize..12, at: prop::sample::Index) {
        let lines: Vec<_> = RECORDED.lines().collect();
        let text = lines[line % lines.len()];
        let cut = &text[..at.index(text.len() - 1)];
        prop_assert!(AgentMessage::parse(cut).is_err() && ControlMessage::parse(cut).is_err());
    }

    #[test]
    fn a_register_is_read_back(agent in "[a-z0-9-]{1,40}", name in "(?s).{0,40}", key in "(?s).{0,9}", value in "(?s).{0,9}") {
        let mut register = Register::new(AgentId::new(agent).unwrap(), name);
        register.labels.insert(key, value);
        let message = AgentMessage::Register(Box::new(register));
        prop_assert_eq!(AgentMessage::parse(&message.encode(Some("r"))).unwrap(), (Some("r".into()), message));
    }
}
