//! Frames that no honest peer sends, put on the bus by hand.

use std::time::Duration;

use async_nats::{Client, Subscriber};
use bus::{Bus, BusStream, Service};
use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt as _;
use protocol::StreamKind;

use crate::harness::{Backend, echo, eventually, open, pair, reset_reason, round_trip, within};

const DATA: u8 = 1;
const ACCEPT: u8 = 5;
const SOON: Duration = Duration::from_secs(2);

fn frame(kind: u8, a: u32, id: u64, b: u32, rest: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_slice(&[1, kind, 0, 0]);
    out.put_u32(a);
    out.put_u64(id);
    out.put_u32(b);
    out.put_slice(rest);
    out.freeze()
}

struct Tap {
    raw: Client,
    frames: Subscriber,
    link: Bus,
    listener: bus::Listener,
    _executor: Bus,
    _backend: Backend,
}

/// A stream, where the opener's frames go, and its id there.
struct Seen {
    opener: BusStream,
    acceptor: BusStream,
    subject: String,
    id: u64,
}

impl Tap {
    async fn new() -> Self {
        let backend = Backend::nats().await;
        let raw = async_nats::connect(&backend.options.url).await.unwrap();
        let frames = raw.subscribe("pipeops.stream.io.>").await.unwrap();
        raw.flush().await.unwrap();
        let (link, executor) = (backend.bus(Service::GatewayLink).await, backend.bus(Service::ProxyExecutor).await);
        let listener = executor.listen(StreamKind::Kube).await.unwrap();
        Self { raw, frames, link, listener, _executor: executor, _backend: backend }
    }

    async fn stream(&mut self) -> Seen {
        let (opener, acceptor) = pair(&self.link, &mut self.listener).await;
        let accept = within(SOON, "the accept passes by", async {
            loop {
                let message = self.frames.next().await.unwrap();
                if message.payload.get(1) == Some(&ACCEPT) {
                    return message;
                }
            }
        })
        .await;
        let id = u64::from_be_bytes(accept.payload[8..16].try_into().unwrap());
        assert_eq!(id, opener.id());
        Seen { opener, acceptor, subject: accept.subject.to_string(), id }
    }

    async fn send(&self, subject: &str, payload: Bytes) {
        self.raw.publish(subject.to_owned(), payload).await.unwrap();
    }
}

#[tokio::test]
async fn a_lost_message_resets_both_sides() {
    let mut tap = Tap::new().await;
    let mut seen = tap.stream().await;
    tap.send(&seen.subject, frame(DATA, 5, seen.id, 0, b"from later")).await;
    assert_eq!(reset_reason(&mut seen.opener, SOON).await, "the bus lost a message");
    assert_eq!(reset_reason(&mut seen.acceptor, SOON).await, "the bus lost a message");
}

#[tokio::test]
async fn more_than_the_credit_resets() {
    let mut tap = Tap::new().await;
    let mut seen = tap.stream().await;
    for sequence in 0..3 {
        tap.send(&seen.subject, frame(DATA, sequence, seen.id, 0, &[0; 60_000])).await;
    }
    assert_eq!(reset_reason(&mut seen.acceptor, SOON).await, "the peer overran its credit");
    reset_reason(&mut seen.opener, SOON).await;
}

#[tokio::test]
async fn tiny_messages_use_the_window_up_too() {
    let mut tap = Tap::new().await;
    let mut seen = tap.stream().await;
    // 64 KiB of window, one byte each: without the constant cost 65,536 of them would queue.
    for sequence in 0..1000 {
        tap.send(&seen.subject, frame(DATA, sequence, seen.id, 0, b"x")).await;
    }
    assert_eq!(reset_reason(&mut seen.acceptor, SOON).await, "the peer overran its credit");
}

#[tokio::test]
async fn garbage_is_counted_and_harms_nothing() {
    let mut tap = Tap::new().await;
    let mut seen = tap.stream().await;
    let address = seen.subject.trim_end_matches(".d").to_owned();
    let bad = [
        Bytes::new(),
        Bytes::from_static(b"short"),
        Bytes::from(vec![0xff; 1000]),
        frame(4, 0, 1, 0, b"an open to one instance"),
        frame(ACCEPT, 0, seen.id, 0, b"x"),
        frame(7, 0, 0, 0, b"gateway-link.>"),
        frame(99, 0, 0, 0, b""),
    ];
    for payload in &bad {
        tap.send(&seen.subject, payload.clone()).await;
    }
    for payload in [frame(DATA, 0, 999_999, 0, b"nobody's"), frame(2, 0, 999_999, 1, b"")] {
        tap.send(&seen.subject, payload).await;
    }
    tap.send(&format!("{address}.o.notanumber"), Bytes::new()).await;
    tap.send("pipeops.stream.open.kube", frame(4, 0, 1, 1, b"\x05bad")).await;
    let count = |expected: u64| {
        let link = tap.link.clone();
        move || match link.stats().bad_frames {
            enough if enough >= expected => Ok(()),
            few => Err(few),
        }
    };
    eventually(SOON, "bad frames are counted", count(7)).await;
    let serving = tokio::spawn(crate::harness::echo_stream(seen.acceptor));
    round_trip(&mut seen.opener, b"unharmed").await;
    drop(seen.opener);
    serving.await.unwrap();
    let accepting = echo(tap.listener);
    round_trip(&mut open(&tap.link, b"").await, b"new ones too").await;
    accepting.abort();
}
