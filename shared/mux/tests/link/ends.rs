//! How a link ends, and that both ends and all streams know it.

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use futures::{SinkExt, StreamExt};
use mux::{CloseCode, Closed, Config, OpenError, Role, Timed, Windows};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role as Side},
};

use crate::harness::{End, ends, ends_with, sockets, soon, stream, tcp, until, within};

fn quick() -> Config {
    Config {
        ping_interval: Duration::from_millis(50),
        dead_after: Duration::from_millis(300),
        close_timeout: Duration::from_millis(300),
        ..Config::default()
    }
}

#[tokio::test]
async fn text_goes_both_ways_in_order() {
    let (mut agent, mut control_plane) = ends().await;
    for i in 0..1000 {
        agent.link.send(format!("up {i}")).await.unwrap();
        control_plane.link.send(format!("down {i}")).await.unwrap();
        if i >= 100 {
            let n = i - 100;
            assert_eq!(
                soon("a text", control_plane.control.recv()).await.unwrap().as_text().unwrap(),
                format!("up {n}")
            );
            assert_eq!(soon("a text", agent.control.recv()).await.unwrap().as_text().unwrap(), format!("down {n}"));
        }
    }
}

#[tokio::test]
async fn a_close_carries_its_code_after_everything_sent_before() {
    let (mut agent, mut control_plane) = ends().await;
    let (mut near, mut far) = stream(&control_plane, &mut agent).await;
    near.write_all(b"last words").await.unwrap();
    near.shutdown().await.unwrap();
    soon("the last words", far.read_to_end(&mut Vec::new())).await.unwrap();
    control_plane.link.send("one".to_owned()).await.unwrap();
    control_plane.link.send("two".to_owned()).await.unwrap();
    control_plane.link.close(CloseCode::Policy, "token revoked");

    assert!(matches!(control_plane.closed().await, Closed::Local { code: 1008, reason: "token revoked" }));
    match agent.closed().await {
        Closed::Peer { code, reason } => assert_eq!((code, reason.as_str()), (1008, "token revoked")),
        other => panic!("{other}"),
    }
    assert_eq!(agent.control.recv().await.unwrap().as_text().unwrap(), "one");
    assert_eq!(agent.control.recv().await.unwrap().as_text().unwrap(), "two");
    assert!(agent.control.recv().await.is_none());
    assert!(agent.streams.recv().await.is_none());
    for end in [&mut agent, &mut control_plane] {
        assert!(end.link.send("late".to_owned()).await.is_err());
        assert!(matches!(end.link.open().await, Err(OpenError::Closed(_))));
        assert_eq!(
            soon("closed", end.link.closed()).await.kind(),
            end.link.send(String::new()).await.unwrap_err().kind()
        );
    }
}

#[tokio::test]
async fn a_long_reason_is_cut_to_what_a_close_frame_holds() {
    let (mut agent, control_plane) = ends().await;
    control_plane.link.close(
        CloseCode::Away,
        concat!(
            "0123456789012345678901234567890123456789012345678901234567890123456789",
            "0123456789012345678901234567890123456789012345678901é and more"
        ),
    );
    match agent.closed().await {
        Closed::Peer { code: 1001, reason } => assert_eq!(reason.len(), 122, "{reason}"),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_cut_link_ends_all_streams_after_what_arrived() {
    let (mut agent, mut control_plane) = ends().await;
    let mut kept = Vec::new();
    for _ in 0..50 {
        let (near, mut far) = stream(&control_plane, &mut agent).await;
        far.write_all(b"partial").await.unwrap();
        kept.push((near, far));
    }
    // All of it has arrived when a text sent after it has.
    agent.link.send("mark".to_owned()).await.unwrap();
    soon("the mark", control_plane.control.recv()).await.unwrap();
    agent.driver.abort();
    let why = control_plane.closed().await;
    assert!(matches!(why, Closed::Lost | Closed::Io(_)), "{why:?}");
    for (mut near, mut far) in kept {
        let mut got = Vec::new();
        let error = soon("the end of a stream", near.read_to_end(&mut got)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
        assert_eq!(got, b"partial");
        assert!(error.get_ref().unwrap().downcast_ref::<Closed>().is_some());
        assert_eq!(near.write(b"x").await.unwrap_err().kind(), ErrorKind::ConnectionAborted);
        assert!(near.shutdown().await.is_err());
        assert_eq!(
            soon("its other end", far.read(&mut [0; 8])).await.unwrap_err().kind(),
            ErrorKind::ConnectionAborted
        );
    }
    assert!(matches!(soon("closed", agent.link.closed()).await, Closed::Dropped));
}

#[tokio::test]
async fn a_silent_peer_is_dead_and_streams_end() {
    let config = quick();
    // The control plane's peer freezes, and the agent's does.
    for role in [Role::ControlPlane, Role::Agent] {
        let (client, server) = sockets(&config).await;
        let (ours, _frozen) = if role == Role::Agent { (client, server) } else { (server, client) };
        let mut end = End::new(ours, role, &config);
        end.link.start_streams(Windows::Fixed);
        let mut opened = soon("open", end.link.open()).await.unwrap();
        opened.write_all(b"anyone?").await.unwrap();
        let start = Instant::now();
        let why = within(Duration::from_secs(5), "the end", end.closed()).await;
        assert!(matches!(why, Closed::Dead(_)), "{why:?}");
        assert!(start.elapsed() >= Duration::from_millis(200), "{:?}", start.elapsed());
        assert_eq!(opened.read(&mut [0; 1]).await.unwrap_err().kind(), ErrorKind::ConnectionAborted);
    }
}

/// A link may be too slow for a whole message in the time after which silence is death.
#[tokio::test]
async fn a_message_that_comes_byte_by_byte_keeps_the_link() {
    const TEXT: &str = "a long message over a slow link";
    let config = Config { dead_after: Duration::from_secs(2), ..quick() };
    let (client, mut server) = tcp().await;
    let client = WebSocketStream::from_raw_socket(Timed::new(client), Side::Client, Some(config.websocket())).await;
    let mut agent = End::new(client, Role::Agent, &config);
    let start = Instant::now();
    let mut pace = tokio::time::interval(Duration::from_millis(150));
    let message = [&[0x81, TEXT.len() as u8], TEXT.as_bytes()].concat();
    for byte in message {
        pace.tick().await;
        server.write_u8(byte).await.unwrap();
    }
    assert!(start.elapsed() > 2 * config.dead_after);
    assert_eq!(soon("the text", agent.control.recv()).await.unwrap().as_text().unwrap(), TEXT);
}

#[tokio::test]
async fn an_idle_link_lives_by_its_pings() {
    let (mut agent, mut control_plane) = ends_with(&quick(), Windows::Fixed).await;
    let ended = tokio::time::timeout(Duration::from_millis(900), async {
        tokio::select! { why = agent.closed() => why, why = control_plane.closed() => why }
    });
    assert!(ended.await.is_err(), "three times the deadline");
    for end in [&agent, &control_plane] {
        until("a round trip", || end.link.stats().rtt.map(|_| ()).ok_or(())).await;
    }
}

#[tokio::test]
async fn a_peer_that_talks_but_takes_nothing_is_dead() {
    let config = quick();
    let (mut client, server) = sockets(&config).await;
    let mut end = End::new(server, Role::ControlPlane, &config);
    let link = end.link.clone();
    let flood = tokio::spawn(async move { while link.send("x".repeat(1 << 20)).await.is_ok() {} });
    let chatter = tokio::spawn(async move {
        while client.send(Message::text("hello")).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        client
    });
    let why = within(Duration::from_secs(5), "the end", async {
        loop {
            tokio::select! { why = end.link.closed() => return why, _ = end.control.recv() => {} }
        }
    })
    .await;
    assert!(matches!(why, Closed::Dead(_)), "{why:?}");
    soon("the driver", &mut end.driver).await.unwrap();
    soon("the sender", flood).await.unwrap();
    chatter.abort();
}

/// The peer's side of the handshake is its own business: we do not wait for it for ever.
#[tokio::test]
async fn closing_towards_a_frozen_peer_is_bounded() {
    let config = quick();
    let (client, server) = sockets(&config).await;
    let mut end = End::new(server, Role::ControlPlane, &config);
    end.link.close(CloseCode::Normal, "bye");
    within(Duration::from_secs(3), "the driver", end.closed()).await;
    drop(client);
}

#[tokio::test]
async fn a_foreign_peer_gets_its_close_answered() {
    let config = Config::default();
    let (mut client, server) = sockets(&config).await;
    let mut end = End::new(server, Role::ControlPlane, &config);
    client.close(None).await.unwrap();
    let mut answered = false;
    while let Some(message) = soon("the answer", client.next()).await {
        answered |= matches!(message, Ok(Message::Close(_)));
    }
    assert!(answered);
    assert!(matches!(end.closed().await, Closed::Peer { code: 1005, .. }));
}

#[tokio::test]
async fn text_overtakes_stream_data_that_was_written_first() {
    let config = Config::default();
    let (mut client, server) = sockets(&config).await;
    let end = End::new(server, Role::ControlPlane, &config);
    end.link.start_streams(Windows::Tuned);
    let mut stream = soon("open", end.link.open()).await.unwrap();
    // Nothing here waits, so the driver finds both when it runs.
    stream.write_all(b"data").await.unwrap();
    end.link.send("text".to_owned()).await.unwrap();
    loop {
        match soon("the text", client.next()).await.unwrap().unwrap() {
            Message::Text(text) => break assert_eq!(text.as_str(), "text"),
            Message::Binary(bytes) => assert!(!bytes.ends_with(b"data"), "data before the text"),
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn what_the_link_itself_says_overtakes_bulk_and_does_not_wait_for_it() {
    let config = Config::default();
    let (mut client, server) = sockets(&config).await;
    let end = End::new(server, Role::ControlPlane, &config);
    let link = end.link.clone();
    // More than the sockets hold while nobody reads.
    let bulk = tokio::spawn(async move {
        for i in 0..1000 {
            link.send_bulk(format!("{i:06}{}", "x".repeat(40_000))).await.unwrap();
        }
    });
    within(Duration::from_secs(5), "a full link", async {
        while end.link.stats().bytes_out < 500_000 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for _ in 0..20 {
        soon("the link's own word", end.link.send("word".to_owned())).await.unwrap();
    }
    let (mut next, mut words, mut last_word) = (0, 0, 0);
    while next < 1000 {
        let Message::Text(text) = soon("a message", client.next()).await.unwrap().unwrap() else { continue };
        if text.as_str() == "word" {
            (words, last_word) = (words + 1, next);
        } else {
            assert_eq!(text[..6].parse(), Ok(next), "bulk out of order");
            next += 1;
        }
    }
    assert!(words == 20 && last_word < 990, "{words} words, the last behind {last_word}");
    bulk.await.unwrap();
}

#[tokio::test]
async fn bulk_that_comes_faster_than_it_is_taken_waits_in_the_socket() {
    let config = Config { max_message: 64 * 1024, control_queue: 8, control_bytes: 100_000, ..Config::default() };
    let (mut client, server) = sockets(&config).await;
    let mut end = End::new(server, Role::ControlPlane, &config);
    end.link.expect_bulk();
    let sender = tokio::spawn(async move {
        for i in 0..2000 {
            // Many small ones, and some of which two are too many.
            let rest = if i % 10 == 0 { 60_000 } else { i % 7 };
            client.send(Message::text(format!("{i:06}{}", "x".repeat(rest)))).await.unwrap();
        }
        client
    });
    for i in 0..2000 {
        if i % 100 == 0 {
            // The driver and the peer go on for a while.
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        }
        let frame = soon("the message", end.control.recv()).await.unwrap_or_else(|| panic!("no message {i}"));
        assert_eq!(frame.as_text().unwrap()[..6].parse(), Ok(i));
    }
    drop(sender.await.unwrap());
}
