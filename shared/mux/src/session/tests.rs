use std::task::{Context, Poll, Waker};

use proptest::prelude::*;

use super::*;
use crate::{
    config::{Config, SPLIT, Windows},
    stream::state::FIN_IN,
};

fn frame(kind: u8, flags: u16, stream: u32, length: u32) -> Vec<u8> {
    Header { version: 0, kind, flags, stream, length }.encode().to_vec()
}

fn data(flags: u16, stream: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = frame(DATA, flags, stream, u32::try_from(body.len()).unwrap());
    bytes.extend_from_slice(body);
    bytes
}

/// A control plane whose agent is the test.
struct End {
    session: Session,
    shared: Arc<Shared>,
    accepted: mpsc::Receiver<MuxStream>,
}

impl End {
    fn new(role: Role) -> Self {
        let shared = Arc::new(Shared::new(role, &Config::default()));
        shared.start(Windows::Tuned);
        let (accepted, queue) = mpsc::channel(64);
        Self { session: Session::new(shared.clone(), accepted), shared, accepted: queue }
    }

    fn receive(&mut self, bytes: Vec<u8>) -> Result<(), Closed> {
        self.session.receive(bytes.into())
    }

    /// What has gone out so far.
    fn output(&self) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            all.extend_from_slice(&lock(&self.shared.output).take());
            let next = lock(&self.shared.output).next();
            match next {
                Some(stream) => stream.take_turn(),
                None => return all,
            }
        }
    }

    fn open_streams(&self) -> usize {
        lock(&self.shared.table).len()
    }
}

/// What `stream` has received, and whether it has come to its end.
fn read(stream: &StreamState) -> (Vec<u8>, bool) {
    let mut cx = Context::from_waker(Waker::noop());
    let mut got = Vec::new();
    loop {
        match stream.poll_piece(&mut cx) {
            Poll::Ready(Some(piece)) => got.extend_from_slice(&piece),
            Poll::Ready(None) => return (got, true),
            Poll::Pending => return (got, false),
        }
    }
}

#[test]
fn fin_counts_only_with_the_last_byte_before_it() {
    let mut end = End::new(Role::ControlPlane);
    let bytes = data(SYN | FIN, 1, b"tail");
    let (last, before) = bytes.split_last().unwrap();
    for byte in before {
        end.receive(vec![*byte]).unwrap();
    }
    let stream = lock(&end.shared.table).get(1).cloned().unwrap();
    assert!(!stream.has(FIN_IN));
    end.receive(vec![*last]).unwrap();
    assert_eq!(read(&stream), (b"tail".to_vec(), true));
}

#[test]
fn a_stream_that_begins_with_its_reset_is_none() {
    let mut end = End::new(Role::ControlPlane);
    end.receive(frame(WINDOW, SYN | RST, 1, 0)).unwrap();
    assert_eq!(end.open_streams(), 0);
    assert!(end.accepted.try_recv().is_err());
}

#[test]
fn frames_of_a_stream_that_is_gone_are_passed_over() {
    let mut end = End::new(Role::ControlPlane);
    end.receive(data(SYN, 1, b"x")).unwrap();
    drop(end.accepted.try_recv().unwrap());
    assert_eq!(end.output(), frame(DATA, ACK | RST, 1, 0));
    let rest = [data(0, 1, &[7; 5000]), frame(WINDOW, 0, 1, 9), frame(WINDOW, FIN, 1, 0), data(SYN, 3, b"y")].concat();
    end.receive(rest).unwrap();
    let next = lock(&end.shared.table).get(3).cloned().unwrap();
    assert_eq!(read(&next).0, b"y");
    assert_eq!(end.shared.unread.bytes(), 0);
}

#[test]
fn an_acknowledgement_makes_room_for_one_more() {
    let mut end = End::new(Role::ControlPlane);
    let open = || {
        end.shared.backlog.try_acquire().unwrap().forget();
        end.shared.open().unwrap()
    };
    let (one, two) = (open(), open());
    assert_eq!((one.id(), two.id()), (2, 4));
    let before = end.shared.backlog.available_permits();
    let twice = [frame(WINDOW, ACK, 2, 0), frame(WINDOW, ACK, 2, 0)].concat();
    end.receive(twice).unwrap();
    assert_eq!(end.shared.backlog.available_permits(), before + 1);
    end.receive(frame(WINDOW, RST, 4, 0)).unwrap();
    drop((one, two));
    assert_eq!(end.shared.backlog.available_permits(), before + 2);
}

/// One operation of a user on one of several streams.
#[derive(Clone, Debug)]
enum Step {
    Write(usize, usize),
    Shut(usize),
    Take,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..4_usize, 1..3 * SPLIT).prop_map(|(stream, length)| Step::Write(stream, length)),
        (0..4_usize).prop_map(Step::Shut),
        Just(Step::Take),
    ]
}

proptest! {
    #[test]
    fn headers_survive_the_wire(bytes: [u8; HEADER]) {
        prop_assert_eq!(Header::decode(bytes).encode(), bytes);
    }

    /// However the peer cuts its bytes into messages, the streams get the same.
    #[test]
    fn message_boundaries_mean_nothing(
        bodies in prop::collection::vec((0u32..4, prop::collection::vec(any::<u8>(), 0..50)), 0..20),
        cuts in prop::collection::vec(1usize..40, 1..20),
    ) {
        let mut end = End::new(Role::ControlPlane);
        let mut bytes = Vec::new();
        let mut expected = vec![Vec::new(); 4];
        for (stream, sent) in (0_u32..).zip(&mut expected) {
            bytes.extend(data(SYN, 2 * stream + 1, b"first"));
            sent.extend_from_slice(b"first");
        }
        for (stream, body) in &bodies {
            bytes.extend(data(0, 2 * stream + 1, body));
            expected[*stream as usize].extend_from_slice(body);
        }
        let mut rest = &bytes[..];
        for cut in cuts.iter().cycle() {
            if rest.is_empty() { break; }
            let (message, left) = rest.split_at((*cut).min(rest.len()));
            rest = left;
            end.receive(message.to_vec()).unwrap();
        }
        for (stream, expected) in (0_u32..).zip(&expected) {
            let stream = lock(&end.shared.table).get(2 * stream + 1).cloned().unwrap();
            prop_assert_eq!(&read(&stream), &(expected.clone(), false));
        }
    }

    /// Hostile bytes end the link or are passed over; they neither panic nor take memory.
    #[test]
    fn garbage_does_no_harm(messages in prop::collection::vec(prop::collection::vec(0u8..12, 0..200), 0..10)) {
        let mut end = End::new(Role::ControlPlane);
        let total: usize = messages.iter().map(Vec::len).sum();
        for message in messages {
            if end.receive(message).is_err() { break; }
        }
        prop_assert!(end.shared.unread.bytes() <= total);
        prop_assert!(end.output().len() <= 2 * total + HEADER);
    }

    /// Whatever is written on several streams, with room and without: the other end reads the same, in whole frames.
    #[test]
    fn what_is_written_arrives(steps in prop::collection::vec(step(), 0..60)) {
        let mut far = End::new(Role::Agent);
        let near = End::new(Role::ControlPlane);
        let mut streams: Vec<_> = (0..4).map(|_| near.shared.open().unwrap()).collect();
        let mut expected = vec![(Vec::new(), false); 4];
        let mut cx = Context::from_waker(Waker::noop());
        let mut wire = Vec::new();
        for (count, step) in (0_u8..).zip(steps) {
            match step {
                Step::Write(i, length) => {
                    let body = vec![count; length];
                    if let Poll::Ready(written) = tokio::io::AsyncWrite::poll_write(std::pin::Pin::new(&mut streams[i]), &mut cx, &body) {
                        match written {
                            Ok(n) => expected[i].0.extend_from_slice(&body[..n]),
                            Err(_) => prop_assert!(expected[i].1, "not shut"),
                        }
                    }
                }
                Step::Shut(i) => {
                    let done = tokio::io::AsyncWrite::poll_shutdown(std::pin::Pin::new(&mut streams[i]), &mut cx);
                    prop_assert!(matches!(done, Poll::Ready(Ok(()))));
                    expected[i].1 = true;
                }
                Step::Take => wire.extend(near.output()),
            }
        }
        wire.extend(near.output());
        for message in wire.chunks(10_000) {
            far.receive(message.to_vec()).unwrap();
        }
        for (i, expected) in expected.into_iter().enumerate() {
            let stream = lock(&far.shared.table).get(streams[i].id()).cloned();
            let got = stream.map_or((Vec::new(), false), |stream| read(&stream));
            prop_assert!(got == expected, "stream {i}: {} bytes instead of {}", got.0.len(), expected.0.len());
        }
    }
}
