use proptest::prelude::*;

use super::*;

const WINDOW_UPDATE: u8 = 1;

fn frame(kind: u8, flags: u16, stream: u32, length: u32) -> Vec<u8> {
    Header { version: 0, kind, flags, stream, length }.encode().to_vec()
}

fn data(flags: u16, stream: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = frame(DATA, flags, stream, u32::try_from(body.len()).unwrap());
    bytes.extend_from_slice(body);
    bytes
}

/// Reads as yamux does: a header, then as much body as it announces. Returns whole frames.
#[derive(Default)]
struct Reader {
    header: Vec<u8>,
    body: Vec<u8>,
    frames: Vec<(Header, Vec<u8>)>,
}

impl Reader {
    fn read(&mut self, transport: &mut Transport) {
        loop {
            if self.header.len() < HEADER {
                let mut buf = [0; HEADER];
                let space = HEADER - self.header.len();
                match transport.read(&mut buf[..space]) {
                    Poll::Ready(Ok(n)) => self.header.extend_from_slice(&buf[..n]),
                    Poll::Ready(Err(error)) => panic!("{error}"),
                    Poll::Pending => return,
                }
                continue;
            }
            let header = Header::decode(*self.header.first_chunk().unwrap());
            let missing = header.body() - self.body.len();
            if missing > 0 {
                let mut buf = vec![0; missing];
                match transport.read(&mut buf) {
                    Poll::Ready(Ok(n)) => self.body.extend_from_slice(&buf[..n]),
                    Poll::Ready(Err(error)) => panic!("{error}"),
                    Poll::Pending => return,
                }
                continue;
            }
            self.frames.push((header, std::mem::take(&mut self.body)));
            self.header.clear();
        }
    }
}

fn receive(transport: &mut Transport, message: Vec<u8>) -> Vec<(Header, Vec<u8>)> {
    let mut reader = Reader::default();
    transport.push(message.into());
    reader.read(transport);
    reader.frames
}

/// Writes as yamux does: the header, then the body.
fn send(transport: &mut Transport, frame: &[u8]) -> bool {
    let (header, body) = frame.split_at(HEADER);
    match transport.write(header) {
        Poll::Ready(Ok(n)) => assert_eq!(n, HEADER),
        Poll::Ready(Err(error)) => panic!("{error}"),
        Poll::Pending => return false,
    }
    if !body.is_empty() {
        assert!(matches!(transport.write(body), Poll::Ready(Ok(n)) if n == body.len()));
    }
    true
}

#[test]
fn a_ping_is_answered_here_and_a_pong_is_not() {
    let mut transport = Transport::default();
    let mut message = frame(PING, SYN, 0, 77);
    message.extend(frame(PING, ACK, 0, 5));
    let frames = receive(&mut transport, message);
    assert_eq!(frames.len(), 1, "yamux gets the pong alone");
    assert_eq!(frames[0].0.length, 5);
    assert!(transport.is_urgent());
    assert_eq!(transport.take(), frame(PING, ACK, 0, 77));
}

#[test]
fn pings_are_answered_while_data_waits_and_a_flood_of_them_is_noticed() {
    let mut transport = Transport::default();
    while send(&mut transport, &data(0, 2, &[1; 16 * 1024])) {}
    receive(&mut transport, frame(PING, SYN, 0, 1));
    assert!(transport.take().ends_with(&frame(PING, ACK, 0, 1)));
    for value in 0..20_000 {
        receive(&mut transport, frame(PING, SYN, 0, value));
    }
    assert!(transport.flooded);
    assert!(transport.take().len() <= PONG_LIMIT + HEADER);
}

#[test]
fn a_polite_go_away_is_kept_from_yamux() {
    let mut transport = Transport::default();
    assert!(receive(&mut transport, frame(GO_AWAY, 0, 0, 0)).is_empty());
    assert!(transport.going_away);
    assert_eq!(receive(&mut transport, frame(GO_AWAY, 0, 0, 1)).len(), 1);
}

#[test]
fn fin_counts_only_with_the_last_byte_before_it() {
    let mut transport = Transport::default();
    let state = transport.open(2);
    let bytes = data(FIN, 2, b"tail");
    let mut reader = Reader::default();
    for byte in &bytes[..bytes.len() - 1] {
        transport.push(vec![*byte].into());
        reader.read(&mut transport);
        assert!(!state.has(FIN_IN));
    }
    transport.push(bytes[bytes.len() - 1..].to_vec().into());
    reader.read(&mut transport);
    assert!(state.has(FIN_IN));
    assert_eq!(reader.frames[0].1, b"tail");
}

#[test]
fn the_first_frame_of_a_stream_may_be_its_last() {
    let mut transport = Transport::default();
    receive(&mut transport, data(SYN | FIN, 2, b"x"));
    assert!(transport.open(2).has(FIN_IN));
    receive(&mut transport, frame(WINDOW_UPDATE, SYN | RST, 4, 0));
    assert_eq!(transport.open_streams(), 1, "yamux makes no stream of that one");
}

#[test]
fn a_fin_for_an_abandoned_stream_becomes_a_reset() {
    let mut transport = Transport::default();
    transport.open(2).set(DROPPED);
    transport.open(4).set(DROPPED | SHUT);
    assert!(send(&mut transport, &frame(DATA, FIN, 2, 0)));
    assert!(send(&mut transport, &frame(DATA, FIN | ACK, 4, 0)));
    let mut expected = frame(DATA, RST, 2, 0);
    expected.extend(frame(DATA, FIN | ACK, 4, 0));
    assert_eq!(transport.take(), expected);
}

#[test]
fn a_stream_goes_when_both_ends_know_that_it_is_over() {
    for (seen, gone, sent) in [
        (0, false, false),
        (FIN_IN, false, false),
        (FIN_OUT, true, true),
        (FIN_IN | FIN_OUT, true, false),
        (RST_IN, true, false),
        (RST_OUT, true, false),
        (RST_IN | FIN_OUT, true, false),
    ] {
        let mut transport = Transport::default();
        transport.open(2).set(seen);
        assert_eq!(transport.reap(2), gone, "{seen:b}");
        assert_eq!(transport.open_streams() == 0, gone, "{seen:b}");
        let expected = if sent { frame(DATA, RST, 2, 0) } else { Vec::new() };
        assert_eq!(transport.take(), expected, "{seen:b}");
    }
}

#[test]
fn output_is_bounded_and_says_when_there_is_room_again() {
    let mut transport = Transport::default();
    assert!(!transport.unblocked());
    while send(&mut transport, &data(0, 2, &[0; 16 * 1024])) {}
    assert!(!transport.unblocked(), "still full");
    assert!(transport.take().len() < OUT_LIMIT + 17 * 1024);
    assert!(transport.unblocked());
    assert!(!transport.unblocked(), "once");
}

#[test]
fn acknowledgements_alone_are_not_urgent() {
    let mut transport = Transport::default();
    assert!(send(&mut transport, &frame(DATA, ACK, 2, 0)));
    assert!(transport.has_output() && !transport.is_urgent());
    assert!(send(&mut transport, &frame(WINDOW_UPDATE, 0, 2, 9)));
    assert!(transport.is_urgent());
    transport.take();
    assert!(!transport.is_urgent());
}

proptest! {
    #[test]
    fn headers_survive_the_wire(bytes: [u8; HEADER]) {
        prop_assert_eq!(Header::decode(bytes).encode(), bytes);
    }

    /// However the peer cuts its bytes into messages, yamux sees the same frames.
    #[test]
    fn message_boundaries_mean_nothing(
        frames in prop::collection::vec((0u16..8, 1u32..5, prop::collection::vec(any::<u8>(), 0..50)), 0..20),
        cuts in prop::collection::vec(1usize..40, 1..20),
    ) {
        let bytes: Vec<u8> = frames.iter().flat_map(|(flags, stream, body)| data(*flags, *stream, body)).collect();
        let mut transport = Transport::default();
        let mut reader = Reader::default();
        let mut rest = &bytes[..];
        for cut in cuts.iter().cycle() {
            if rest.is_empty() { break; }
            let (message, left) = rest.split_at((*cut).min(rest.len()));
            rest = left;
            transport.push(Bytes::copy_from_slice(message));
            reader.read(&mut transport);
            prop_assert!(transport.input.is_empty(), "yamux takes all of a message");
        }
        let got: Vec<_> = reader.frames.iter().map(|(header, body)| (header.flags, header.stream, body.clone())).collect();
        prop_assert_eq!(got, frames);
    }

    /// Hostile bytes neither panic nor get stuck: each read gives something or wants the next message.
    #[test]
    fn garbage_is_passed_on_or_ignored(messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..10)) {
        let mut transport = Transport::default();
        let mut taken = 0;
        let total: usize = messages.iter().map(Vec::len).sum();
        for message in messages {
            transport.push(message.into());
            let mut buf = [0; 64];
            while let Poll::Ready(read) = transport.read(&mut buf) {
                let n = read.unwrap();
                prop_assert!(n > 0);
                taken += n;
            }
            prop_assert!(transport.input.is_empty());
        }
        prop_assert!(taken <= total);
    }

    /// What yamux writes comes out whole and in order, whatever is injected between.
    #[test]
    fn frames_are_never_torn(ops in prop::collection::vec((0u8..4, prop::collection::vec(any::<u8>(), 0..2000)), 0..100)) {
        let mut transport = Transport::default();
        let mut wire = Vec::new();
        let mut expected = Vec::new();
        for (op, body) in ops {
            match op {
                0 => { receive(&mut transport, frame(PING, SYN, 0, 9)); }
                1 => wire.extend_from_slice(&transport.take()),
                _ => {
                    let sent = data(0, 2, &body);
                    if send(&mut transport, &sent) {
                        expected.push(body);
                    }
                }
            }
        }
        wire.extend_from_slice(&transport.take());
        let mut other = Transport::default();
        let got: Vec<Vec<u8>> = receive(&mut other, wire).into_iter().filter(|(h, _)| h.kind == DATA).map(|(_, b)| b).collect();
        prop_assert_eq!(got, expected);
    }
}
