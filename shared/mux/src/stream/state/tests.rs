use std::{
    sync::atomic::{AtomicUsize, Ordering},
    task::Wake,
};

use super::*;
use crate::{
    config::{Config, OUT_LIMIT, Role, Windows},
    frame::{ACK, FIN, RST, SYN},
    unread::Unread,
};

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn shared() -> Arc<Shared> {
    let config = Config { unread: Arc::new(Unread::limited(1 << 30)), ..Config::default() };
    let shared = Arc::new(Shared::new(Role::ControlPlane, &config));
    shared.start(Windows::Tuned);
    shared
}

fn said(shared: &Shared) -> Vec<u8> {
    lock(&shared.output).take().to_vec()
}

fn poll<T>(poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Option<T> {
    match poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

fn write(stream: &Arc<StreamState>, bytes: &[u8]) -> Option<Option<usize>> {
    poll(|cx| stream.poll_write(cx, &[IoSlice::new(bytes)]))
}

fn header(flags: u16, stream: u32, length: u32) -> Vec<u8> {
    Header::data(flags, stream, length).encode().to_vec()
}

/// A stream that has `unread` bytes since now, and a reader of `read` before.
fn neglected(read: u64, unread: usize) -> Arc<StreamState> {
    let stream = StreamState::accepted(1, shared(), INITIAL_WINDOW);
    stream.lock().read = read;
    stream.receive(vec![0; unread].into());
    stream
}

#[test]
fn the_longest_and_most_neglected_stream_is_the_worst() {
    let burden =
        |stream: Arc<StreamState>, millis| stream.burden(Instant::now() + Duration::from_millis(millis)).unwrap();
    let window = 256 * 1024;
    assert!(burden(neglected(0, window), 20) > burden(neglected(0, window), 10));
    assert!(burden(neglected(0, window), 10) > burden(neglected(0, 1024), 10));
    // Late, and still better than one that was never read; but not for ever.
    assert!(burden(neglected(1 << 30, window), 200) < burden(neglected(0, window), 10));
    assert!(burden(neglected(1 << 30, window), 60_000) > burden(neglected(0, window), 500));
    let dropped = neglected(0, window);
    dropped.close();
    assert_eq!(dropped.burden(Instant::now()), None);
    assert_eq!(dropped.shared.unread.bytes(), 0);
}

/// How a stream that its user drops ends for the peer, by what both had said before.
#[test]
fn the_peer_learns_what_the_drop_of_a_stream_means() {
    for (shut, fin_in, expected) in [
        (false, false, header(RST, 2, 0)),
        (false, true, header(RST, 2, 0)),
        (true, false, header(RST, 2, 0)),
        (true, true, Vec::new()),
    ] {
        let shared = shared();
        let stream = StreamState::opened(2, shared.clone());
        assert_eq!(write(&stream, b"x"), Some(Some(1)));
        if shut {
            assert!(stream.shut());
        }
        if fin_in {
            stream.finish();
        }
        said(&shared);
        stream.close();
        assert_eq!(said(&shared), expected, "shut {shut}, fin_in {fin_in}");
        assert_eq!(shared.backlog.available_permits(), 257);
    }
}

#[test]
fn a_stream_that_the_peer_never_heard_of_ends_in_silence() {
    let shared = shared();
    StreamState::opened(2, shared.clone()).close();
    assert_eq!(said(&shared), b"");
    let aborted = StreamState::opened(4, shared.clone());
    write(&aborted, b"x");
    said(&shared);
    aborted.reset();
    aborted.close();
    assert_eq!(said(&shared), b"", "the peer knows");
}

/// What was written before the end goes out, with the end behind it, though the user has gone.
#[test]
fn a_frame_that_waits_in_line_keeps_its_end() {
    let shared = shared();
    let (bulk, last) = (StreamState::opened(2, shared.clone()), StreamState::opened(4, shared.clone()));
    let piece = vec![1; SPLIT];
    let mut written = 0;
    while let Some(Some(n)) = write(&bulk, &piece) {
        written += n;
    }
    assert_eq!(written, OUT_LIMIT + SPLIT, "a full output, and one frame in line");
    assert_eq!(write(&last, b"last words"), Some(Some(10)));
    assert!(stream_is_blocked(&last));
    assert!(last.shut());
    last.close();
    let full = said(&shared);
    assert!(full.starts_with(&header(SYN, 2, length(SPLIT))));
    while let Some(next) = { lock(&shared.output).next() } {
        next.take_turn();
    }
    let rest = said(&shared);
    let expected = [header(SYN, 4, 10), b"last words".to_vec(), header(FIN, 4, 0), header(RST, 4, 0)].concat();
    assert_eq!(shared.counters.open_streams.load(Ordering::Relaxed), 0);
    assert!(rest.ends_with(&expected), "{:?}", &rest[SPLIT..]);
    assert_eq!(rest.len(), crate::frame::HEADER + SPLIT + expected.len());
}

fn stream_is_blocked(stream: &Arc<StreamState>) -> bool {
    write(stream, b"more").is_none()
}

#[test]
fn a_turn_wakes_the_writer_once_its_frame_is_gone() {
    let shared = shared();
    let stream = StreamState::opened(2, shared.clone());
    let piece = vec![1; SPLIT];
    while write(&stream, &piece).is_some() {}
    let count = Arc::new(Count::default());
    let waker = Waker::from(count.clone());
    assert!(stream.poll_write(&mut Context::from_waker(&waker), &[IoSlice::new(b"x")]).is_pending());
    // More credit does not help while the frame is here.
    assert!(stream.allow(1));
    assert_eq!(count.0.load(Ordering::SeqCst), 0);
    said(&shared);
    let next = lock(&shared.output).next().unwrap();
    next.take_turn();
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
    assert_eq!(write(&stream, b"x"), Some(Some(1)));
}

#[test]
fn nothing_is_written_without_credit_and_no_more_than_it() {
    let shared = shared();
    let stream = StreamState::accepted(1, shared.clone(), 3);
    assert_eq!(write(&stream, b"abcd"), Some(Some(3)));
    assert_eq!(write(&stream, b"d"), None);
    assert!(stream.allow(2));
    assert_eq!(write(&stream, b"d"), Some(Some(1)));
    let expected = [header(ACK, 1, 3), b"abc".to_vec(), header(0, 1, 1), b"d".to_vec()].concat();
    assert_eq!(said(&shared), expected);
    assert!(!stream.allow(u32::MAX), "more than there can be");
}

#[test]
fn several_buffers_share_a_frame() {
    let shared = shared();
    let stream = StreamState::opened(2, shared.clone());
    let bufs = [IoSlice::new(b"head"), IoSlice::new(b""), IoSlice::new(b"body")];
    assert_eq!(poll(|cx| stream.poll_write(cx, &bufs)), Some(Some(8)));
    assert_eq!(said(&shared), [header(SYN, 2, 8), b"headbody".to_vec()].concat());
}

/// Reads a part of a window, and gives what the peer is granted for it.
fn grant(stream: &StreamState, shared: &Shared) -> u32 {
    let part = stream.lock().window / PART;
    stream.expect(part).unwrap();
    stream.receive(vec![0; part as usize].into());
    while poll(|cx| stream.poll_piece(cx)).is_some() {}
    let said = said(shared);
    let Some(last) = said.last_chunk() else { return 0 };
    let header = Header::decode(*last);
    assert_eq!((header.kind, header.stream), (frame::WINDOW, stream.id));
    header.length
}

#[test]
fn a_window_grows_while_its_reader_keeps_up_and_shrinks_again() {
    let shared = shared();
    let stream = StreamState::accepted(1, shared.clone(), INITIAL_WINDOW);
    stream.acknowledge();
    let part = INITIAL_WINDOW / PART;
    assert_eq!(grant(&stream, &shared), part + INITIAL_WINDOW, "doubled");
    assert_eq!(grant(&stream, &shared), 2 * part + 2 * INITIAL_WINDOW, "doubled again");
    stream.lock().last_grant -= Duration::from_secs(1);
    assert_eq!(grant(&stream, &shared), 4 * part, "neither fast nor slow");
    for _ in 0..20 {
        stream.lock().last_grant -= Duration::from_secs(3);
        let before = stream.lock().window;
        let granted = grant(&stream, &shared);
        let now = stream.lock().window;
        assert_eq!(granted + (before - now), before / PART, "narrowed by what it had read");
    }
    assert_eq!(stream.lock().window, INITIAL_WINDOW, "it never falls below the first");
    // One has half of what is left for all together, and gives it back.
    let total = Config::default().stream_window_total;
    for _ in 0..20 {
        grant(&stream, &shared);
    }
    let most = usize::try_from(stream.lock().window).unwrap();
    assert_eq!(most, total / 2, "{most}");
    let other = StreamState::accepted(3, shared.clone(), INITIAL_WINDOW);
    assert_eq!(grant(&other, &shared), part + INITIAL_WINDOW, "there is some left");
    other.close();
    stream.close();
    assert!(shared.widen(length(total / 2)));
    assert!(!shared.widen(length(total / 2)));
    // Nor does one get what could fill all that may be left unread.
    shared.narrow(length(total / 2));
    shared.unread.add(1 << 29);
    assert!(!shared.widen(INITIAL_WINDOW));
}

#[test]
fn pieces_that_wait_are_put_together_and_one_that_is_awaited_is_not_copied() {
    let stream = StreamState::accepted(1, shared(), INITIAL_WINDOW);
    for _ in 0..1000 {
        stream.receive(Bytes::from_static(b"x"));
    }
    assert_eq!(poll(|cx| stream.poll_piece(cx)).unwrap().unwrap(), vec![b'x'; 1000]);
    assert!(poll(|cx| stream.poll_piece(cx)).is_none());
    let awaited = Bytes::from_static(b"awaited");
    stream.receive(awaited.clone());
    let got = poll(|cx| stream.poll_piece(cx)).unwrap().unwrap();
    assert_eq!(got.as_ptr(), awaited.as_ptr());
}

#[test]
fn no_more_is_taken_than_was_granted_and_nothing_behind_the_end() {
    let stream = StreamState::accepted(1, shared(), INITIAL_WINDOW);
    assert!(stream.expect(INITIAL_WINDOW + 1).is_err());
    assert!(stream.expect(INITIAL_WINDOW).is_ok() && stream.expect(1).is_err());
    let ended = StreamState::accepted(3, shared(), INITIAL_WINDOW);
    ended.finish();
    assert!(ended.expect(0).is_ok() && ended.expect(1).is_err());
}

/// A piece of the empty kind would be the end for whoever reads it.
#[test]
fn a_large_frame_that_waits_comes_in_whole_pieces() {
    let stream = StreamState::accepted(1, shared(), INITIAL_WINDOW);
    for size in [100 * 1024, 1, 100 * 1024] {
        stream.receive(vec![1; size].into());
    }
    let mut sizes = Vec::new();
    while let Some(Some(piece)) = poll(|cx| stream.poll_piece(cx)) {
        sizes.push(piece.len());
    }
    assert_eq!(sizes, [100 * 1024, 1, 100 * 1024]);
}
