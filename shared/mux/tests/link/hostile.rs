//! A peer that breaks the rules loses its link, with the code that says which rule.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use mux::{Config, ControlFrame, OpenError, Role, Windows};
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::frame::{
        Frame, FrameHeader,
        coding::{CloseCode, Data, OpCode},
    },
};

use crate::harness::{End, Socket, sockets, soon, until};

const DATA: u8 = 0;
const WINDOW: u8 = 1;
const PING: u8 = 2;
const GO_AWAY: u8 = 3;
const SYN: u16 = 1;
const ACK: u16 = 2;
const FIN: u16 = 4;
const RST: u16 = 8;

fn header(kind: u8, flags: u16, stream: u32, length: u32) -> Vec<u8> {
    let mut bytes = vec![0, kind];
    bytes.extend(flags.to_be_bytes());
    bytes.extend(stream.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes
}

fn data(flags: u16, stream: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = header(DATA, flags, stream, body.len() as u32);
    bytes.extend_from_slice(body);
    bytes
}

fn small() -> Config {
    Config { max_message: 64 * 1024, accept_queue: 4, control_queue: 8, control_bytes: 100_000, ..Config::default() }
}

/// A control plane and the bare client socket of its agent.
async fn victim(config: &Config) -> (Socket, End) {
    let (client, server) = sockets(config).await;
    let end = End::new(server, Role::ControlPlane, config);
    end.link.start_streams(Windows::Fixed);
    (client, end)
}

async fn expect(case: &str, mut client: Socket, mut end: End, code: CloseCode, kind: &str) {
    let told = loop {
        match soon(case, client.next()).await {
            Some(Ok(Message::Close(frame))) => break frame.map(|frame| frame.code),
            Some(Ok(_)) => {}
            other => panic!("{case}: no close frame but {other:?}"),
        }
    };
    assert_eq!(told, Some(code), "{case}");
    drop(client);
    let why = end.closed().await;
    assert_eq!(why.kind(), kind, "{case}: {why}");
    assert_eq!(end.link.stats().open_streams, 0, "{case}");
}

#[tokio::test]
async fn each_broken_rule_has_its_close_code() {
    let window: Vec<u8> = (0..17).flat_map(|i| data(if i == 0 { SYN } else { 0 }, 1, &[0; 16 * 1024])).collect();
    let (message, rest) = window.split_at(60_000);
    let mut messages = vec![Message::binary(message.to_vec())];
    messages.extend(rest.chunks(60_000).map(|part| Message::binary(part.to_vec())));
    let rsv = FrameHeader { rsv1: true, opcode: OpCode::Data(Data::Binary), ..FrameHeader::default() };
    let binary = |bytes: Vec<u8>| vec![Message::binary(bytes)];

    let cases: Vec<(&str, Vec<Message>, CloseCode, &str)> = vec![
        ("unknown version", binary([&[1][..], &[0; 11]].concat()), CloseCode::Protocol, "protocol"),
        ("unknown type", binary(header(9, 0, 1, 0)), CloseCode::Protocol, "protocol"),
        ("text as stream data", binary(b"GET / HTTP/1.1\r\n\r\n".to_vec()), CloseCode::Protocol, "protocol"),
        ("huge frame", binary(header(DATA, SYN, 1, 2 << 20)), CloseCode::Protocol, "protocol"),
        (
            "data after the end",
            binary([data(SYN | FIN, 1, b"x"), data(0, 1, b"y")].concat()),
            CloseCode::Protocol,
            "protocol",
        ),
        ("id of the wrong end", binary(data(SYN, 2, b"x")), CloseCode::Protocol, "protocol"),
        ("id in use", binary([data(SYN, 1, b"x"), data(SYN, 1, b"x")].concat()), CloseCode::Protocol, "protocol"),
        ("beyond the window", messages, CloseCode::Protocol, "protocol"),
        (
            "credit overflow",
            binary([data(SYN, 1, b"x"), header(WINDOW, 0, 1, u32::MAX)].concat()),
            CloseCode::Protocol,
            "protocol",
        ),
        ("go away with an error", binary(header(GO_AWAY, 0, 0, 1)), CloseCode::Protocol, "protocol"),
        ("a pong nobody asked for", binary(header(PING, ACK, 0, 999)), CloseCode::Protocol, "protocol"),
        ("large binary", binary(vec![0; 64 * 1024 + 1]), CloseCode::Size, "too_big"),
        ("large text", vec![Message::text("x".repeat(64 * 1024 + 1))], CloseCode::Size, "too_big"),
        (
            "text that is none",
            vec![Message::Frame(Frame::message(vec![0xff, 0xfe], OpCode::Data(Data::Text), true))],
            CloseCode::Invalid,
            "not_utf8",
        ),
        (
            "reserved bits",
            vec![Message::Frame(Frame::from_payload(rsv, vec![1].into()))],
            CloseCode::Protocol,
            "protocol",
        ),
        ("many texts", (0..9).map(|i| Message::text(i.to_string())).collect(), CloseCode::Policy, "control_flood"),
        ("much text", (0..3).map(|_| Message::text("x".repeat(50_000))).collect(), CloseCode::Policy, "control_flood"),
    ];
    for (case, messages, code, kind) in cases {
        let (mut client, end) = victim(&small()).await;
        for message in messages {
            // The link may be gone before the last one.
            if client.send(message).await.is_err() {
                break;
            }
        }
        expect(case, client, end, code, kind).await;
    }
}

#[tokio::test]
async fn a_binary_message_before_the_agreement_is_a_control_message() {
    for role in [Role::ControlPlane, Role::Agent] {
        let (client, server) = sockets(&small()).await;
        let (ours, mut theirs) = if role == Role::Agent { (client, server) } else { (server, client) };
        let mut end = End::new(ours, role, &small());
        assert!(matches!(soon("open", end.link.open()).await, Err(OpenError::NotStarted)));
        for (bytes, text) in [(header(PING, SYN, 0, 1), None), (b"{}".to_vec(), Some("{}"))] {
            theirs.send(Message::binary(bytes.clone())).await.unwrap();
            let frame = soon("the message", end.control.recv()).await.unwrap();
            assert_eq!(frame, ControlFrame::Binary(bytes.clone().into()));
            assert_eq!(frame.as_text(), text);
        }
    }
}

#[tokio::test]
async fn the_agent_is_quiet_until_spoken_to() {
    let (client, mut server) = sockets(&small()).await;
    let end = End::new(client, Role::Agent, &small());
    end.link.start_streams(Windows::Fixed);
    end.link.send("gateway_hello_ack".to_owned()).await.unwrap();
    let first = soon("the first message", server.next()).await.unwrap().unwrap();
    assert_eq!(first, Message::text("gateway_hello_ack"), "its ping must not overtake the agreement");
    for flags in [SYN, 0] {
        server.send(Message::binary(header(PING, flags, 0, 7))).await.unwrap();
        let mut answered = false;
        while !answered {
            let message = soon("the pong", server.next()).await.unwrap().unwrap();
            answered = message.into_data().windows(12).any(|frame| frame == header(PING, ACK, 0, 7));
        }
    }
}

#[tokio::test]
async fn streams_that_nobody_takes_in_time_are_reset_alone() {
    let (mut client, mut end) = victim(&small()).await;
    client.send(Message::binary((0..5).flat_map(|i| data(SYN, 1 + 2 * i, b"x")).collect::<Vec<_>>())).await.unwrap();
    let refused = loop {
        let message = soon("the refusal", client.next()).await.unwrap().unwrap();
        if message.is_binary() {
            break message.into_data();
        }
    };
    assert_eq!(refused, header(DATA, RST, 9, 0));
    for _ in 0..4 {
        let mut stream = soon("a stream", end.streams.recv()).await.unwrap();
        assert_eq!(soon("a chunk", stream.chunk()).await.unwrap().unwrap(), "x");
    }
    assert_eq!((end.link.stats().accepted, end.link.stats().refused), (4, 1));
}

/// Each stream that is opened has to be answered, and so has each ping: whoever takes no answers gets no more of them.
#[tokio::test]
async fn a_peer_that_asks_for_more_than_it_takes_is_not_listened_to() {
    for ask in [data(SYN, 1, b""), header(PING, SYN, 0, 7)] {
        let config = Config { max_streams: 16, ..Config::default() };
        let (mut client, mut end) = victim(&config).await;
        let link = end.link.clone();
        let taking = tokio::spawn(async move { while end.streams.recv().await.is_some() {} });
        let mut id = 1;
        let asking = async {
            loop {
                let mut frames = Vec::new();
                for _ in 0..10_000 {
                    let mut frame = ask.clone();
                    if frame[1] == DATA {
                        frame[4..8].copy_from_slice(&u32::to_be_bytes(id));
                        id += 2;
                    }
                    frames.extend(frame);
                }
                if client.send(Message::binary(frames)).await.is_err() {
                    return;
                }
            }
        };
        let why = tokio::select! {
            why = soon("the end", link.closed()) => why,
            () = asking => soon("the end", link.closed()).await,
        };
        assert_eq!(why.kind(), "protocol", "{why}");
        taking.abort();
    }
}

/// Nobody reads what is said of it: nothing may gather behind it.
#[tokio::test]
async fn a_peer_that_breaks_the_rules_and_reads_nothing_is_not_listened_to() {
    let (mut client, mut end) = victim(&Config::default()).await;
    let credit = header(WINDOW, 0, 1, 1 << 30);
    client.send(Message::binary([data(SYN, 1, b"x"), credit].concat())).await.unwrap();
    let mut stream = soon("the stream", end.streams.recv()).await.unwrap();
    let piece = vec![0; 1 << 20];
    while tokio::time::timeout(Duration::from_millis(300), stream.write_all(&piece)).await.is_ok() {}
    client.send(Message::binary(header(PING, ACK, 0, 999))).await.unwrap();
    for _ in 0..4 {
        // The link may be gone before the last one.
        let _sent = client.send(Message::binary(data(0, 1, &[0; 60_000]))).await;
    }
    let why = end.closed().await;
    assert_eq!(why.kind(), "protocol", "{why}");
}

#[tokio::test]
async fn a_polite_go_away_stops_new_streams_and_keeps_the_old() {
    let (mut client, mut end) = victim(&small()).await;
    client.send(Message::binary(data(SYN, 1, b"x"))).await.unwrap();
    let mut open = soon("the stream", end.streams.recv()).await.unwrap();
    client.send(Message::binary(header(GO_AWAY, 0, 0, 0))).await.unwrap();
    client.send(Message::text("mark")).await.unwrap();
    soon("the mark", end.control.recv()).await.unwrap();
    assert!(matches!(soon("open", end.link.open()).await, Err(OpenError::GoingAway)));
    open.write_all(b"still here").await.unwrap();
    client.send(Message::binary(data(FIN, 1, b"y"))).await.unwrap();
    assert_eq!(soon("a chunk", open.chunk()).await.unwrap().unwrap(), "x");
    assert_eq!(soon("a chunk", open.chunk()).await.unwrap().unwrap(), "y");
    assert_eq!(soon("the end", open.chunk()).await.unwrap(), None);
    assert!(!end.driver.is_finished());
}

#[tokio::test]
async fn nobody_else_notices() {
    let (mut agent, control_plane) = crate::harness::ends().await;
    for _ in 0..20 {
        let (mut client, end) = victim(&small()).await;
        client.send(Message::binary(vec![0xff; 4096])).await.unwrap();
        expect("garbage", client, end, CloseCode::Protocol, "protocol").await;
        crate::harness::stream(&control_plane, &mut agent).await;
    }
    until("its streams to end", || {
        let open = agent.link.stats().open_streams;
        if open == 0 { Ok(()) } else { Err(open) }
    })
    .await;
}
