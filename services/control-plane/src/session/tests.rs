use super::*;

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use duplex::Socket;
use futures::stream;
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::io::StreamReader;

use crate::auth::{Grant, NewToken};

const SOON: Duration = Duration::from_secs(20);
const WHOLE: &[u8] = b"\x82\x05whole";
/// Of seven bytes, four.
const PART: &[u8] = b"\x82\x07part";
const CLOSE: &[u8] = b"\x88\x02\x03\xe8";

/// A session under way, and all that is around it.
struct Ongoing {
    /// None once the client is gone.
    client: Option<DuplexStream>,
    /// What the cluster's side sends; none once it has ended.
    sends: Option<mpsc::Sender<io::Result<Bytes>>>,
    /// What it is sent.
    receives: DuplexStream,
    token: Arc<TokenRecord>,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl Ongoing {
    fn begin(websocket: bool) -> Self {
        let user = protocol::User { name: "ana".to_owned(), groups: Vec::new() };
        let token = Arc::new(NewToken::generate(Grant::User { user, clusters: None }).record);
        let (client, client_end) = duplex(64);
        let (receives, cluster_end) = duplex(64);
        let (sends, mut sent) = mpsc::channel(1024);
        let sent = StreamReader::new(stream::poll_fn(move |cx| sent.poll_recv(cx)));
        let cluster = Socket::new(tokio::io::join(sent, cluster_end));
        let session = Session { cluster, token: Some(Arc::clone(&token)), websocket, place: None };
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let running = tokio::spawn(async move { session.run(Socket::new(client_end), &stopped).await });
        Self { client: Some(client), sends: Some(sends), receives, token, stop, running }
    }

    fn send(&self, bytes: &'static [u8]) {
        self.sends.as_ref().unwrap().try_send(Ok(Bytes::from_static(bytes))).unwrap();
    }

    /// The client has all that was sent so far.
    async fn carried(&mut self, bytes: &[u8]) {
        let mut got = vec![0; bytes.len()];
        let read = self.client.as_mut().unwrap().read_exact(&mut got);
        timeout(SOON, read).await.expect("it is not carried on").unwrap();
        assert_eq!(got, bytes);
    }

    fn breaks(&self) {
        let error = io::Error::new(io::ErrorKind::ConnectionReset, "10.0.0.7 did it");
        self.sends.as_ref().unwrap().try_send(Err(error)).unwrap();
    }

    /// What the client reads up to the end, as one that closes then.
    async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let mut client = self.client.take().unwrap();
        timeout(SOON, client.read_to_end(&mut rest)).await.expect("it does not end").unwrap();
        rest
    }

    async fn ends(self) {
        timeout(SOON, self.running).await.expect("it goes on").unwrap();
    }

    /// The cluster's side is given up, whatever the client does.
    async fn released(&self) {
        timeout(SOON, self.sends.as_ref().unwrap().closed()).await.expect("the cluster's side is kept");
    }
}

fn close(code: u16, reason: &str) -> Vec<u8> {
    let length = u8::try_from(2 + reason.len()).unwrap();
    [&[0x88, length], &code.to_be_bytes()[..], reason.as_bytes()].concat()
}

const BROKE: &str = "the cluster's side broke; begin the session again";
const ENDED: &str = "the cluster's side ended without a reason; begin the session again";
const REVOKED: &str = "the token was revoked; ask for a new one";
const STOPPED: &str = "the control plane is shutting down; begin the session again";

/// Takes down what is written at once.
#[derive(Default)]
struct Written(Vec<Vec<u8>>);

impl AsyncWrite for Written {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.push(buf.to_vec());
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Duplex for Written {
    fn poll_chunk(&mut self, _: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        Poll::Pending
    }

    fn poll_reset(&mut self, _: &mut Context<'_>) -> Poll<io::Error> {
        Poll::Pending
    }
}

#[tokio::test]
async fn frames_that_come_together_are_written_one_by_one() {
    let together = [WHOLE, b"\x89\x00", WHOLE, PART].concat();
    let mut written = Written::default();
    Client::new(&mut written, true).write_all(&together).await.unwrap();
    assert_eq!(written.0, [WHOLE, b"\x89\x00", WHOLE, PART]);
    let mut written = Written::default();
    Client::new(&mut written, false).write_all(&together).await.unwrap();
    assert_eq!(written.0, [together]);
}

#[tokio::test]
async fn a_client_reads_why_its_session_ends() {
    type Act = fn(&mut Ongoing);
    let cuts: [(Act, u16, &str); 4] = [
        (|session| session.token.revoked().cancel(), 1008, REVOKED),
        (|session| session.stop.cancel(), 1001, STOPPED),
        // Not a word of the error itself: it has addresses in it, and is for the log.
        (|session| session.breaks(), 1011, BROKE),
        (|session| session.sends = None, 1011, ENDED),
    ];
    for (cut, code, reason) in cuts {
        let mut session = Ongoing::begin(true);
        session.send(WHOLE);
        session.carried(WHOLE).await;
        cut(&mut session);
        assert_eq!(session.rest().await, close(code, reason));
        session.ends().await;
    }
}

#[tokio::test]
async fn what_has_come_before_the_end_is_carried_on_before_the_reason() {
    for (breaks, reason) in [(true, BROKE), (false, ENDED)] {
        let mut session = Ongoing::begin(true);
        // More than the client's pipe takes at once.
        for _ in 0..30 {
            session.send(WHOLE);
        }
        if breaks {
            session.breaks();
        }
        session.sends = None;
        assert_eq!(session.rest().await, [WHOLE.repeat(30), close(1011, reason)].concat());
        session.ends().await;
    }
}

#[tokio::test]
async fn a_shutdown_that_breaks_the_clusters_side_too_is_called_a_shutdown() {
    let mut session = Ongoing::begin(true);
    session.breaks();
    session.stop.cancel();
    assert_eq!(session.rest().await, close(1001, STOPPED));
    session.ends().await;
}

#[tokio::test]
async fn a_frame_that_has_begun_is_carried_to_its_end_before_the_reason() {
    for (part, rest, all) in [(PART, "ing", "ing\u{2}next"), ("\u{1}".as_bytes(), "\u{5}whole", "\u{5}whole\u{2}next")]
    {
        let mut session = Ongoing::begin(true);
        session.send(part);
        session.carried(part).await;
        session.token.revoked().cancel();
        // A revoked token sends nothing to the cluster any more.
        session.client.as_mut().unwrap().write_all(b"input").await.unwrap();
        session.send(all.as_bytes());
        session.released().await;
        assert_eq!(session.rest().await, [rest.as_bytes(), &close(1008, REVOKED)].concat());
        let mut input = Vec::new();
        session.receives.read_to_end(&mut input).await.unwrap();
        assert_eq!(input, b"");
        session.ends().await;
    }
}

#[tokio::test]
async fn nothing_follows_a_part_of_a_frame() {
    type Act = fn(&mut Ongoing);
    let cuts: [Act; 4] = [
        |session| session.token.revoked().cancel(),
        |session| session.stop.cancel(),
        |session| session.breaks(),
        |session| session.sends = None,
    ];
    for cut in cuts {
        let mut session = Ongoing::begin(true);
        session.send(PART);
        session.carried(PART).await;
        cut(&mut session);
        assert_eq!(session.rest().await, b"", "a client would take it for the rest of the frame");
        session.ends().await;
    }
}

#[tokio::test]
async fn nothing_follows_a_close_frame() {
    let cuts: [fn(&mut Ongoing); 3] =
        [|session| session.token.revoked().cancel(), |session| session.breaks(), |session| session.sends = None];
    for cut in cuts {
        let mut session = Ongoing::begin(true);
        session.send(CLOSE);
        session.carried(CLOSE).await;
        cut(&mut session);
        assert_eq!(session.rest().await, b"");
        session.ends().await;
    }
}

#[tokio::test]
async fn a_client_that_goes_is_told_nothing_and_the_cluster_that_it_went() {
    let mut session = Ongoing::begin(true);
    let mut client = session.client.take().unwrap();
    client.shutdown().await.unwrap();
    let mut end = Vec::new();
    timeout(SOON, session.receives.read_to_end(&mut end)).await.expect("the cluster waits for it").unwrap();
    session.sends = None;
    timeout(SOON, client.read_to_end(&mut end)).await.expect("it does not end").unwrap();
    assert_eq!(end, b"");
    session.ends().await;
}

#[tokio::test]
async fn a_client_that_breaks_gives_the_clusters_side_up() {
    let mut session = Ongoing::begin(true);
    session.client = None;
    session.send(WHOLE);
    session.released().await;
    session.ends().await;
}

#[tokio::test]
async fn a_client_that_neither_reads_nor_closes_keeps_nothing_of_the_cluster_and_has_to_go() {
    for (sent, times) in [(WHOLE, 1), (PART, 1), (WHOLE, 30)] {
        let session = Ongoing::begin(true);
        for _ in 0..times {
            session.send(sent);
        }
        tokio::task::yield_now().await;
        session.stop.cancel();
        session.released().await;
        if (sent, times) == (WHOLE, 1) {
            assert!(!session.running.is_finished(), "the cluster's side is kept for the farewell");
        }
        session.ends().await;
    }
}

#[tokio::test]
async fn what_is_no_websocket_is_carried_and_cut_without_a_word() {
    let cuts: [fn(&mut Ongoing); 4] = [
        |session| session.token.revoked().cancel(),
        |session| session.stop.cancel(),
        |session| session.breaks(),
        |session| session.sends = None,
    ];
    for cut in cuts {
        let mut session = Ongoing::begin(false);
        // As a WebSocket's, it would be the beginning of a very long frame.
        session.send(b"\x80\x03\x00\x01\x7f");
        session.carried(b"\x80\x03\x00\x01\x7f").await;
        cut(&mut session);
        assert_eq!(session.rest().await, b"");
        session.ends().await;
    }
    // One direction may end before the other.
    let mut session = Ongoing::begin(false);
    session.sends = None;
    let mut client = session.client.take().unwrap();
    let mut end = Vec::new();
    timeout(SOON, client.read_to_end(&mut end)).await.expect("it does not end").unwrap();
    client.write_all(b"and more").await.unwrap();
    let mut more = [0; 8];
    timeout(SOON, session.receives.read_exact(&mut more)).await.expect("it was cut").unwrap();
    drop(client);
    session.ends().await;
}

#[test]
fn every_reason_fits_into_a_close_frame() {
    for cut in [Cut::Broken(io::Error::other("x".repeat(200))), Cut::Ended, Cut::Revoked, Cut::Stopped] {
        let frame = cut.frame();
        assert!(frame.len() <= 2 + 125 && usize::from(frame[1]) == frame.len() - 2, "{cut}");
    }
}
