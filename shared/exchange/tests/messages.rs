//! Messages as they look on the wire, from the peer's side: raw bytes in, raw bytes out.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends at the first surprise"
)]

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use duplex::Socket;
use exchange::{BodyError, Connection, Error, Incoming, MAX_HEADERS, Reply, Settings, UpgradeSlot, serve};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

type ResponseBody = BoxBody<Bytes, BodyError>;
type Served = JoinHandle<Result<(), Error>>;

const LIMIT: Duration = Duration::from_secs(10);

fn full(bytes: impl Into<Bytes>) -> ResponseBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

fn frames(frames: Vec<Frame<Bytes>>) -> ResponseBody {
    StreamBody::new(futures::stream::iter(frames.into_iter().map(Ok))).boxed()
}

/// `/echo` gives back the body and its trailers, `/refuse` answers 403 and takes nothing, `/upgrade` says what it is asked for,
/// anything else says "hello".
async fn answer(request: Request<Incoming>) -> Response<ResponseBody> {
    match request.uri().path() {
        "/echo" => {
            let collected = request.into_body().collect().await;
            let Ok(collected) = collected else { return Response::new(full("broken")) };
            let trailers = collected.trailers().cloned();
            let mut all = vec![Frame::data(collected.to_bytes())];
            all.extend(trailers.map(Frame::trailers));
            Response::new(frames(all))
        }
        "/refuse" => {
            let mut response = Response::new(full("no"));
            *response.status_mut() = StatusCode::FORBIDDEN;
            response
        }
        "/large" => Response::new(full(vec![b'x'; 100_000])),
        "/last" => Response::new(Last(Some(Bytes::from(vec![b'x'; 4096]))).boxed()),
        "/cut" => {
            let data = Ok(Frame::data(Bytes::from_static(b"so far")));
            let cut = Err(BodyError("gone".into()));
            Response::new(StreamBody::new(futures::stream::iter([data, cut])).boxed())
        }
        "/upgrade" => Response::new(full(format!("{:?}", request.headers().get("upgrade")))),
        _ => Response::new(full("hello")),
    }
}

/// One frame, of which it knows that it is the last but did not say how long it would be; like a body over HTTP/2.
struct Last(Option<Bytes>);

impl Body for Last {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}

fn served(settings: Settings, buffer: usize) -> (DuplexStream, Served) {
    let (client, server) = tokio::io::duplex(buffer);
    let serving = tokio::spawn(async move {
        let slot = UpgradeSlot::<()>::new();
        serve(settings, Socket::new(server), slot, std::future::pending(), answer).await.map(drop)
    });
    (client, serving)
}

/// Everything the server says to `said`, until it closes.
async fn all(said: &[u8]) -> (String, Result<(), Error>) {
    let (client, serving) = served(Settings::default(), 1 << 20);
    let (mut read, mut write) = tokio::io::split(client);
    write.write_all(said).await.unwrap();
    let mut heard = Vec::new();
    timeout(LIMIT, read.read_to_end(&mut heard)).await.expect("the server closes").unwrap();
    drop((read, write));
    (String::from_utf8(heard).unwrap(), timeout(LIMIT, serving).await.unwrap().unwrap())
}

#[tokio::test]
async fn requests_sent_together_are_answered_in_turn() {
    let said = b"GET /1 HTTP/1.1\r\nhost: a\r\n\r\nPOST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nfour\
                 GET /2 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let (heard, ended) = all(said).await;
    assert_eq!(heard.matches("HTTP/1.1 200 OK\r\n").count(), 3, "{heard}");
    assert!(heard.contains("\r\n\r\n4\r\nfour\r\n0\r\n\r\n"), "{heard}");
    assert!(heard.ends_with("content-length: 5\r\nconnection: close\r\n\r\nhello"), "{heard}");
    ended.unwrap();
}

#[tokio::test]
async fn the_end_of_a_body_comes_behind_its_last_piece() {
    let (heard, ended) = all(b"GET /last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    let (_, body) = heard.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, format!("1000\r\n{}\r\n0\r\n\r\n", "x".repeat(4096)));
    ended.unwrap();
}

#[tokio::test]
async fn what_there_was_of_a_body_arrives_before_it_is_cut() {
    let (heard, ended) = all(b"GET /cut HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(heard.starts_with("HTTP/1.1 200 OK\r\n") && heard.ends_with("\r\n6\r\nso far\r\n"), "{heard}");
    assert!(matches!(ended, Err(Error::Body(_))), "{ended:?}");
}

#[tokio::test]
async fn trailers_end_where_everybody_sees_their_end() {
    let head = "POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n";
    let (heard, ended) = all(format!("{head}\nGET /swallowed HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await;
    assert_eq!(heard, "");
    assert!(matches!(ended, Err(Error::Malformed(_))), "{ended:?}");
    let framing = "host: b\r\ncontent-length: 5\r\nconnection: close\r\n";
    let identity = "authorization: x\r\nimpersonate-user: root\r\nx-remote-user: root\r\n";
    let trailers = format!("x-sum: 2\r\n{framing}{identity}\r\n");
    let last = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let (heard, ended) = all(format!("{head}{trailers}{last}").as_bytes()).await;
    assert!(heard.contains("\r\nok\r\n0\r\nx-sum: 2\r\n\r\nHTTP/1.1 200 "), "{heard}");
    ended.unwrap();
}

/// It was on its way when the server was told to stop.
#[tokio::test]
async fn a_request_that_comes_just_after_the_stop_is_answered_as_the_last() {
    let (mut client, server) = tokio::io::duplex(1024);
    let stop = std::future::ready(());
    let serving = serve(Settings::default(), Socket::new(server), UpgradeSlot::<()>::new(), stop, answer);
    let asking = async {
        tokio::task::yield_now().await;
        client.write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
        let mut said = Vec::new();
        timeout(LIMIT, client.read_to_end(&mut said)).await.expect("no end").unwrap();
        String::from_utf8(said).unwrap()
    };
    let (served, said) = tokio::join!(serving, asking);
    served.unwrap();
    assert!(said.contains("connection: close") && said.ends_with("hello"), "{said}");
}

#[tokio::test]
async fn a_request_may_come_byte_by_byte() {
    let (mut client, _serving) = served(Settings::default(), 1);
    let said = b"\r\nPOST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n\
                 5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nx-sum: 6\r\n\r\n";
    client.write_all(said).await.unwrap();
    let mut heard = String::new();
    timeout(LIMIT, client.read_to_string(&mut heard)).await.expect("an answer").unwrap();
    assert!(heard.ends_with("6\r\nhello!\r\n0\r\nx-sum: 6\r\n\r\n"), "{heard}");
}

#[tokio::test]
async fn what_could_be_understood_in_two_ways_is_refused() {
    for (head, status) in [
        ("POST / HTTP/1.1\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n", "400"),
        ("POST / HTTP/1.1\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\n", "400"),
        ("POST / HTTP/1.1\r\ncontent-length: +4\r\n\r\n", "400"),
        ("POST / HTTP/1.1\r\ncontent-length: 4, 4\r\n\r\n", "400"),
        ("POST / HTTP/1.1\r\ncontent-length:\r\n\r\n", "400"),
        ("POST / HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n", "501"),
        ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n", "501"),
        ("POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n", "501"),
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nbad header: x\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\na: b\r\n c\r\n\r\n", "400"),
        ("GET / HTTP/2.0\r\n\r\n", "400"),
        ("\u{16}\u{3}\u{1} not http\r\n\r\n", "400"),
    ] {
        let (heard, ended) = all(head.as_bytes()).await;
        assert!(heard.starts_with(&format!("HTTP/1.1 {status} ")), "{head:?} got {heard:?}");
        assert!(heard.contains("connection: close\r\n"), "{heard}");
        assert!(matches!(ended, Err(Error::Malformed(_))), "{head:?}: {ended:?}");
    }
}

#[tokio::test]
async fn a_head_has_a_limit_in_bytes_and_in_headers() {
    let large = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(Settings::default().max_head));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(MAX_HEADERS + 1));
    for head in [large, many] {
        let (heard, ended) = all(head.as_bytes()).await;
        assert!(heard.starts_with("HTTP/1.1 431 "), "{heard}");
        assert!(matches!(ended, Err(Error::Malformed(_))), "{ended:?}");
    }
}

#[tokio::test]
async fn a_client_that_waits_to_be_told_sends_its_body_then() {
    let (mut client, _serving) = served(Settings::default(), 1024);
    let head = b"POST /echo HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n";
    client.write_all(head).await.unwrap();
    let mut told = [0; 25];
    timeout(LIMIT, client.read_exact(&mut told)).await.expect("to be told").unwrap();
    assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"ok").await.unwrap();
    let mut heard = [0; 15];
    timeout(LIMIT, client.read_exact(&mut heard)).await.expect("an answer").unwrap();
    assert_eq!(&heard, b"HTTP/1.1 200 OK");
}

#[tokio::test]
async fn a_refused_upload_reads_its_answer_and_the_connection_ends() {
    let (client, serving) = served(Settings::default(), 1024);
    let (mut read, mut write) = tokio::io::split(client);
    let upload = tokio::spawn(async move {
        let head = b"PUT /refuse HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n";
        write.write_all(head).await.unwrap();
        write.write_all(&vec![0; 1_000_000]).await
    });
    let mut heard = String::new();
    timeout(LIMIT, read.read_to_string(&mut heard)).await.expect("an answer").unwrap();
    assert!(heard.starts_with("HTTP/1.1 403 ") && heard.contains("connection: close\r\n"), "{heard}");
    timeout(LIMIT, upload).await.expect("the upload is taken").unwrap().expect("and not broken");
    drop(read);
    timeout(LIMIT, serving).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn no_answer_to_a_head_request_has_a_body() {
    let said = b"HEAD /large HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let (heard, ended) = all(said).await;
    let (head, rest) = heard.split_once("\r\n\r\n").unwrap();
    assert!(!head.contains("transfer-encoding"), "{head}");
    assert!(rest.starts_with("HTTP/1.1 200 OK\r\n"), "{rest}");
    ended.unwrap();
}

#[tokio::test]
async fn an_old_client_gets_a_body_that_ends_with_the_connection() {
    let (heard, ended) = all(b"POST /echo HTTP/1.0\r\ncontent-length: 2\r\n\r\nok").await;
    assert!(heard.ends_with("\r\n\r\nok") && !heard.contains("chunked"), "{heard}");
    ended.unwrap();
}

#[tokio::test]
async fn an_old_client_is_offered_no_upgrade() {
    let asks = "connection: upgrade, close\r\nupgrade: SPDY/3.1\r\n\r\n";
    let (heard, _) = all(format!("GET /upgrade HTTP/1.1\r\nhost: a\r\n{asks}").as_bytes()).await;
    assert!(heard.contains("SPDY/3.1"), "{heard}");
    let (heard, _) = all(format!("GET /upgrade HTTP/1.0\r\n{asks}").as_bytes()).await;
    assert!(heard.ends_with("\r\n\r\nNone"), "{heard}");
}

#[tokio::test]
async fn a_request_that_stays_away_or_unfinished_ends_the_connection() {
    let settings = Settings { head_timeout: Some(Duration::from_millis(50)), ..Settings::default() };
    let (_silent, serving) = served(settings, 1024);
    timeout(LIMIT, serving).await.expect("it ends").unwrap().expect("and nothing is wrong");
    let (mut slow, serving) = served(settings, 1024);
    slow.write_all(b"GET / HTT").await.unwrap();
    let ended = timeout(LIMIT, serving).await.expect("it ends").unwrap();
    assert!(matches!(ended, Err(Error::Timeout)), "{ended:?}");
}

/// What a client makes of these bytes.
async fn reply_to(request: Request<Full<Bytes>>, said: &[u8]) -> Result<(StatusCode, Bytes, HeaderMap), Error> {
    let (client, mut server) = tokio::io::duplex(1 << 20);
    server.write_all(said).await.unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let reader = tokio::spawn({
        let heard = Arc::clone(&heard);
        async move {
            let mut piece = [0; 1024];
            let n = server.read(&mut piece).await.unwrap();
            heard.lock().unwrap().extend_from_slice(&piece[..n]);
        }
    });
    let connection = Box::new(Connection::new(Delayed { io: Socket::new(client), sent: false }));
    let reply = timeout(LIMIT, connection.send(request, None)).await.expect("a reply");
    let Reply::Response(response) = reply.map_err(|error| match error {
        exchange::SendError::Failed { error, .. } => error,
        exchange::SendError::Unsent(_) => panic!("the connection was fine"),
    })?
    else {
        panic!("an upgrade")
    };
    let status = response.status();
    let collected = timeout(LIMIT, response.into_body().collect()).await.expect("the body's end")?;
    reader.await.unwrap();
    let trailers = collected.trailers().cloned().unwrap_or_default();
    Ok((status, collected.to_bytes(), trailers))
}

/// Gives what its peer said only once something was sent: an answer before its question spoils a connection.
struct Delayed {
    io: Socket<DuplexStream>,
    sent: bool,
}

impl duplex::Duplex for Delayed {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<Option<Bytes>>> {
        if self.sent { self.io.poll_chunk(cx) } else { Poll::Pending }
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Error> {
        self.io.poll_reset(cx)
    }
}

impl tokio::io::AsyncWrite for Delayed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        self.sent = true;
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

fn get() -> Request<Full<Bytes>> {
    Request::get("/").body(Full::default()).unwrap()
}

#[tokio::test]
async fn a_response_ends_where_its_head_says() {
    for (said, body) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok and more", "ok"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nmore", "ok"),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 \r\ncontent-length: 2\r\n\r\nok",
            "ok",
        ),
        ("HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n", ""),
        ("HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", ""),
    ] {
        let (_, got, _) = reply_to(get(), said.as_bytes()).await.unwrap();
        assert_eq!(got, body, "{said:?}");
    }
    let said =
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n2\r\nok\r\n0\r\nx-sum: 2\r\n\r\n";
    let (_, _, trailers) = reply_to(get(), said).await.unwrap();
    assert_eq!(trailers["x-sum"], "2");
    let head = Request::head("/").body(Full::default()).unwrap();
    let (_, got, _) = reply_to(head, b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n").await.unwrap();
    assert_eq!(got, "");
}

#[tokio::test]
async fn a_response_that_breaks_off_or_contradicts_itself_is_an_error() {
    for said in [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n11112222333344445\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nokay\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2 00000005\r\nok\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n00000000000000002\r\nok\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\ncontent-length: 5, 5\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        &"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(20),
        "ICY 200 OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
    ] {
        let got = reply_to(get(), said.as_bytes()).await;
        assert!(matches!(got, Err(Error::Malformed(_))), "{said:?} gave {got:?}");
    }
    for said in [
        "",
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n",
    ] {
        let got = reply_to(get(), said.as_bytes()).await;
        assert!(matches!(got, Err(Error::Incomplete)), "{said:?} gave {got:?}");
    }
}
