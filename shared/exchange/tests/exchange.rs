//! A client connection and a server over an in-memory pipe, as two hops of the proxy path meet.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends at the first surprise")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use duplex::{Relayed, Socket, relay};
use exchange::{
    BodyError, Connection, Error, Incoming, Pool, PoolError, PoolLimits, Reply, SendError, Settings, UpgradeSlot,
    Upgraded, serve,
};
use http::{Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

type RequestBody = Full<Bytes>;
type Pipe = Socket<DuplexStream>;
type TestPool = Arc<Pool<Pipe>>;
type ResponseBody = BoxBody<Bytes, BodyError>;

const LIMIT: Duration = Duration::from_secs(10);

fn full(text: &'static str) -> ResponseBody {
    Full::new(Bytes::from_static(text.as_bytes())).map_err(|never| match never {}).boxed()
}

fn get(path: &str) -> Request<RequestBody> {
    Request::get(path).header(header::HOST, "test").body(Full::default()).unwrap()
}

fn pool() -> TestPool {
    Pool::new(PoolLimits { max_idle: 4, idle_timeout: Duration::from_secs(60) })
}

/// Serves `/hello`, `/headers` (status 204), and counts.
fn hello_server(io: DuplexStream, served: Arc<AtomicUsize>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let service = move |request: Request<Incoming>| {
            let served = Arc::clone(&served);
            async move {
                served.fetch_add(1, SeqCst);
                let mut response = Response::new(full("hello"));
                if request.uri().path() == "/headers" {
                    *response.status_mut() = StatusCode::NO_CONTENT;
                    *response.body_mut() = full("");
                }
                response
            }
        };
        let slot = UpgradeSlot::<()>::new();
        let _ended = serve(Settings::default(), Socket::new(io), slot, std::future::pending(), service).await;
    })
}

async fn text(reply: Reply<Pipe>) -> String {
    match reply {
        Reply::Response(response) => {
            String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
        }
        Reply::Upgraded(..) => panic!("unexpected upgrade"),
    }
}

#[tokio::test]
async fn a_connection_returns_to_the_pool_after_each_response_and_is_used_again() {
    let (client, server) = tokio::io::duplex(1024);
    let served = Arc::new(AtomicUsize::new(0));
    let _server = hello_server(server, Arc::clone(&served));
    let pool = pool();
    let mut connection = Box::new(Connection::new(Socket::new(client)));
    for path in ["/hello", "/headers", "/hello"] {
        let reply = connection.send(get(path), Some(Arc::clone(&pool))).await.unwrap();
        assert_eq!(text(reply).await, if path == "/headers" { "" } else { "hello" });
        connection = pool.take().expect("the connection waits in the pool");
    }
    assert_eq!(served.load(SeqCst), 3);
    assert_eq!(pool.idle(), 0);
}

#[tokio::test]
async fn a_connection_whose_peer_has_gone_is_not_given_out() {
    let (client, server) = tokio::io::duplex(1024);
    let server = hello_server(server, Arc::default());
    let pool = pool();
    let connection = Box::new(Connection::new(Socket::new(client)));
    text(connection.send(get("/hello"), Some(Arc::clone(&pool))).await.unwrap()).await;
    assert_eq!(pool.idle(), 1);
    server.abort();
    assert!(server.await.unwrap_err().is_cancelled());
    assert!(pool.take().is_none());
    assert_eq!(pool.idle(), 0);
}

#[tokio::test]
async fn a_request_that_never_left_is_handed_back() {
    let (client, server) = tokio::io::duplex(1024);
    let connection: Box<Connection<_>> = Box::new(Connection::new(Socket::new(client)));
    drop(server);
    match connection.send(get("/precious"), None).await {
        Err(SendError::Unsent(request)) => assert_eq!(request.uri().path(), "/precious"),
        other => panic!("nobody can have received it: {other:?}"),
    }
}

/// A response of one chunk at a time, under the test's control.
fn streaming_server(io: DuplexStream) -> (mpsc::Sender<Result<&'static str, &'static str>>, JoinHandle<()>) {
    let (chunks, receiver) = mpsc::channel(1);
    let receiver = Arc::new(tokio::sync::Mutex::new(Some(receiver)));
    let server = tokio::spawn(async move {
        let service = move |_: Request<Incoming>| {
            let receiver = Arc::clone(&receiver);
            async move {
                let receiver: mpsc::Receiver<Result<&str, &str>> = receiver.lock().await.take().unwrap();
                let frames = futures_chunks(receiver);
                Response::new(BodyExt::boxed(StreamBody::new(frames)))
            }
        };
        let slot = UpgradeSlot::<()>::new();
        let _ended = serve(Settings::default(), Socket::new(io), slot, std::future::pending(), service).await;
    });
    (chunks, server)
}

fn futures_chunks(
    receiver: mpsc::Receiver<Result<&'static str, &'static str>>,
) -> impl futures::Stream<Item = Result<Frame<Bytes>, BodyError>> {
    futures::stream::unfold(receiver, |mut receiver| async move {
        let chunk = receiver.recv().await?;
        let frame = chunk.map(|text| Frame::data(Bytes::from_static(text.as_bytes()))).map_err(|e| BodyError(e.into()));
        Some((frame, receiver))
    })
}

#[tokio::test]
async fn chunks_arrive_one_by_one_and_a_cut_body_is_an_error() {
    let (client, server) = tokio::io::duplex(1024);
    let (chunks, _server) = streaming_server(server);
    let pool = pool();
    let connection = Box::new(Connection::new(Socket::new(client)));
    let Reply::Response(response) = connection.send(get("/watch"), Some(Arc::clone(&pool))).await.unwrap() else {
        panic!("unexpected upgrade")
    };
    let mut body = response.into_body();
    for event in ["first", "second"] {
        chunks.send(Ok(event)).await.unwrap();
        let frame = timeout(LIMIT, body.frame()).await.expect("the event is not held back").unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), event);
    }
    chunks.send(Err("backend died")).await.unwrap();
    let cut = timeout(LIMIT, body.frame()).await.unwrap();
    assert!(matches!(cut, Some(Err(Error::Incomplete))), "a cut transfer must not look complete: {cut:?}");
    assert_eq!(pool.idle(), 0);
}

#[tokio::test]
async fn dropping_a_response_cancels_the_request_at_the_other_end() {
    let (client, server) = tokio::io::duplex(1024);
    let (chunks, server) = streaming_server(server);
    let connection = Box::new(Connection::new(Socket::new(client)));
    let reply = connection.send(get("/watch"), None).await.unwrap();
    drop(reply);
    timeout(LIMIT, chunks.closed()).await.expect("the body at the other end is dropped");
    timeout(LIMIT, server).await.expect("and so is its connection").unwrap();
}

#[tokio::test]
async fn an_upgrade_gives_raw_bytes_both_ways_and_loses_none_of_the_first() {
    let (client, middle_server) = tokio::io::duplex(1024);
    let (middle_client, mut backend) = tokio::io::duplex(1024);
    let middle = tokio::spawn(async move {
        let slot = UpgradeSlot::new();
        let connection = Arc::new(tokio::sync::Mutex::new(Some(middle_client)));
        let service = {
            let slot = slot.clone();
            move |request: Request<Incoming>| {
                let (slot, connection) = (slot.clone(), Arc::clone(&connection));
                async move {
                    let io = connection.lock().await.take().unwrap();
                    let request = request.map(|_| RequestBody::default());
                    let reply = Box::new(Connection::new(Socket::new(io))).send(request, None).await.unwrap();
                    let Reply::Upgraded(response, upstream) = reply else { panic!("the backend upgrades") };
                    slot.put(upstream);
                    response.map(|()| full(""))
                }
            }
        };
        let (client, upstream): (Upgraded<Pipe>, Upgraded<Pipe>) =
            serve(Settings::default(), Socket::new(middle_server), slot, std::future::pending(), service)
                .await
                .unwrap()
                .expect("an upgrade");
        let carried = std::sync::Mutex::new(Relayed::default());
        let count = |more: Relayed| {
            let mut carried = carried.lock().unwrap();
            carried.from_left += more.from_left;
            carried.from_right += more.from_right;
        };
        relay(client, upstream, count).await.unwrap();
        carried.into_inner().unwrap()
    });
    let backend = tokio::spawn(async move {
        let mut head = vec![0; 4096];
        let mut read = 0;
        while !head[..read].ends_with(b"\r\n\r\n") {
            read += backend.read(&mut head[read..]).await.unwrap();
        }
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: test\r\n\r\nfirst words";
        backend.write_all(answer).await.unwrap();
        let mut heard = Vec::new();
        backend.read_to_end(&mut heard).await.unwrap();
        backend.write_all(b" and last words").await.unwrap();
        heard
    });
    let (mut read, mut write) = tokio::io::split(client);
    write
        .write_all(b"GET /session HTTP/1.1\r\nhost: test\r\nconnection: Upgrade\r\nupgrade: test\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"first words") {
        let mut piece = [0; 256];
        let n = timeout(LIMIT, read.read(&mut piece)).await.expect("the first bytes of the session").unwrap();
        assert_ne!(n, 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&piece[..n]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
    write.write_all(b"hello backend").await.unwrap();
    write.shutdown().await.unwrap();
    let mut rest = Vec::new();
    timeout(LIMIT, read.read_to_end(&mut rest)).await.expect("the session ends").unwrap();
    assert_eq!(rest, b" and last words", "the other direction goes on after a half-close");
    assert_eq!(backend.await.unwrap(), b"hello backend");
    let relayed = timeout(LIMIT, middle).await.unwrap().unwrap();
    assert_eq!((relayed.from_left, relayed.from_right), (13, 26));
}

#[tokio::test]
async fn a_stopped_server_finishes_the_request_under_way_and_then_closes() {
    let (client, server) = tokio::io::duplex(1024);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (entered, mut requests) = mpsc::channel(1);
    let server = tokio::spawn(async move {
        let service = move |_: Request<Incoming>| {
            let entered = entered.clone();
            async move {
                let (release, released) = tokio::sync::oneshot::channel::<()>();
                entered.send(release).await.unwrap();
                released.await.unwrap();
                Response::new(full("finished"))
            }
        };
        let stop = async { drop(stopped.await) };
        serve(Settings::default(), Socket::new(server), UpgradeSlot::<()>::new(), stop, service)
            .await
            .unwrap()
            .is_none()
    });
    let connection = Box::new(Connection::new(Socket::new(client)));
    let answer = tokio::spawn(async move { text(connection.send(get("/slow"), None).await.unwrap()).await });
    let release = timeout(LIMIT, requests.recv()).await.unwrap().unwrap();
    stop.send(()).unwrap();
    release.send(()).unwrap();
    assert_eq!(timeout(LIMIT, answer).await.unwrap().unwrap(), "finished");
    assert!(timeout(LIMIT, server).await.expect("the connection is closed").unwrap());
}

#[tokio::test]
async fn a_request_goes_on_while_its_response_is_not_read() {
    const SIZE: usize = 1 << 20;
    let (client, server) = tokio::io::duplex(1024);
    let (got, all) = tokio::sync::oneshot::channel();
    let got = Arc::new(std::sync::Mutex::new(Some(got)));
    // Answers at once, with more than the pipe holds, and reads on.
    let _server = tokio::spawn(async move {
        let service = move |request: Request<Incoming>| {
            let got = got.lock().unwrap().take();
            async move {
                let length = tokio::spawn(async move { request.into_body().collect().await.unwrap().to_bytes().len() });
                tokio::spawn(async move { got.unwrap().send(length.await.unwrap()) });
                Response::new(Full::new(Bytes::from(vec![b'y'; SIZE])).map_err(|never| match never {}).boxed())
            }
        };
        let slot = UpgradeSlot::<()>::new();
        let _ended = serve(Settings::default(), Socket::new(server), slot, std::future::pending(), service).await;
    });
    let pieces =
        futures::stream::iter((0..1024).map(|_| Ok::<_, BodyError>(Frame::data(Bytes::from(vec![b'x'; 1024])))));
    let request = Request::post("/").header(header::HOST, "test").body(StreamBody::new(pieces).boxed()).unwrap();
    let connection = Box::new(Connection::new(Socket::new(client)));
    let Reply::Response(response) = timeout(LIMIT, connection.send(request, None)).await.unwrap().unwrap() else {
        panic!("an upgrade");
    };
    assert_eq!(timeout(LIMIT, all).await.expect("the request stands still").unwrap(), SIZE);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes().len(), SIZE);
}

/// A connection that has served one request and is closed, unanswered, by the next.
async fn fickle_pool() -> TestPool {
    let (client, server) = tokio::io::duplex(1024);
    let served = Arc::new(AtomicUsize::new(0));
    let (mut server_read, mut server_write) = tokio::io::split(server);
    let pool = pool();
    tokio::spawn(async move {
        let mut request = [0; 1024];
        while server_read.read(&mut request).await.unwrap_or(0) > 0 {
            if served.fetch_add(1, SeqCst) > 0 {
                return;
            }
            server_write.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        }
    });
    let connection = Box::new(Connection::new(Socket::new(client)));
    assert_eq!(text(connection.send(get("/first"), Some(Arc::clone(&pool))).await.unwrap()).await, "ok");
    assert_eq!(pool.idle(), 1);
    pool
}

async fn send_on(pool: &TestPool, request: Request<RequestBody>) -> Result<String, PoolError<std::io::Error>> {
    let connect = async || {
        let (client, server) = tokio::io::duplex(1024);
        tokio::spawn(async move { hello_server(server, Arc::default()).await });
        Ok((Socket::new(client), Arc::clone(pool)))
    };
    match pool.send(request, connect).await {
        Ok(reply) => Ok(text(reply).await),
        Err(error) => Err(error),
    }
}

/// As when the first of two ways ends just then.
#[tokio::test]
async fn a_request_of_which_nothing_was_sent_takes_another_way() {
    let (first, other) = (pool(), pool());
    let ways = AtomicUsize::new(0);
    let connect = async || {
        let (client, server) = tokio::io::duplex(1024);
        if ways.fetch_add(1, SeqCst) == 0 {
            drop(server);
            return Ok((Socket::new(client), Arc::clone(&first)));
        }
        tokio::spawn(async move { hello_server(server, Arc::default()).await });
        Ok::<_, std::io::Error>((Socket::new(client), Arc::clone(&other)))
    };
    let post = Request::post("/once").header(header::HOST, "test").body(Full::default()).unwrap();
    assert_eq!(text(first.send(post, connect).await.unwrap()).await, "hello");
    assert_eq!((ways.into_inner(), first.idle(), other.idle()), (2, 0, 1), "the connection waits where it belongs");
}

#[tokio::test]
async fn a_connection_that_closes_under_a_request_costs_only_those_that_change_something() {
    let answered = send_on(&fickle_pool().await, get("/again")).await;
    assert_eq!(answered.unwrap(), "hello", "a GET is sent again on a new connection");
    let post = Request::post("/once").header(header::HOST, "test").body(Full::from("x")).unwrap();
    let refused = send_on(&fickle_pool().await, post).await;
    assert!(matches!(refused, Err(PoolError::Failed(_))), "a POST may have taken effect already: {refused:?}");
}
