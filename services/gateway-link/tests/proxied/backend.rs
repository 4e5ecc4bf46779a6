//! An HTTP server: the API server, or one behind a Service. What it does depends on the path.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use duplex::Socket;
use exchange::{BodyError, Incoming, Settings, UpgradeSlot};
use futures::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{Message, protocol::frame::coding::CloseCode};

/// What the server has seen.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    Begun(String),
    /// A request was given up, or a watch.
    Cancelled(String),
}

pub struct Backend {
    pub address: SocketAddr,
    events: mpsc::Receiver<Event>,
    /// What watches say next.
    pub say: mpsc::Sender<Bytes>,
    /// Lets the oldest upload that is not read be read.
    pub read: Arc<Notify>,
    /// Bytes that `flood` has given away.
    pub flooded: Arc<AtomicUsize>,
    _running: JoinSet<()>,
}

type Says = Arc<Mutex<mpsc::Receiver<Bytes>>>;
type Answer = Response<UnsyncBoxBody<Bytes, BodyError>>;

#[derive(Clone)]
struct Server {
    events: mpsc::Sender<Event>,
    says: Says,
    read: Arc<Notify>,
    flooded: Arc<AtomicUsize>,
}

impl Backend {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (events, seen) = mpsc::channel(1024);
        let (say, says) = mpsc::channel(1024);
        let read = Arc::new(Notify::new());
        let flooded = Arc::new(AtomicUsize::new(0));
        let says = Arc::new(Mutex::new(says));
        let server = Server { events, says, read: Arc::clone(&read), flooded: Arc::clone(&flooded) };
        let mut running = JoinSet::new();
        running.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                connections.spawn(server.clone().connection(tcp));
            }
        });
        Self { address, events: seen, say, read, flooded, _running: running }
    }

    /// Waits for an event; others before it are passed over.
    pub async fn saw(&mut self, wanted: Event) {
        let looking = async { while self.events.recv().await.as_ref() != Some(&wanted) {} };
        if timeout(Duration::from_secs(20), looking).await.is_err() {
            panic!("not within 20 s: {wanted:?}");
        }
    }
}

impl Server {
    async fn connection(self, tcp: TcpStream) {
        let slot = UpgradeSlot::new();
        let (server, given) = (self.clone(), slot.clone());
        let service = move |request| {
            let (server, slot) = (server.clone(), given.clone());
            async move { server.answer(request, &slot).await }
        };
        let stop = std::future::pending();
        if let Ok(Some((upgraded, path))) =
            exchange::serve(Settings::default(), Socket::new(tcp), slot, stop, service).await
        {
            let tcp = upgraded.io.into_inner();
            let read = upgraded.read_ahead.to_vec();
            let socket = WebSocketStream::from_partially_read(tcp, read, Role::Server, None).await;
            websocket(socket, &path).await;
        }
    }

    async fn answer(&self, request: Request<Incoming>, slot: &UpgradeSlot<String>) -> Answer {
        let path = request.uri().path().to_owned();
        let last = path.rsplit('/').next().unwrap_or_default().to_owned();
        if last == "readyz" {
            return full(StatusCode::OK, "ok");
        }
        let _gone = self.events.try_send(Event::Begun(path.clone()));
        if request.headers().contains_key(header::UPGRADE) && !["forbidden", "nosocket"].contains(&&*last) {
            return upgrade(&request, path, slot);
        }
        match last.as_str() {
            // The request as it came.
            "echo" => {
                let mut response = Response::new(());
                *response.headers_mut() = described(&request);
                response.map(|()| request.into_body().map_err(|e| BodyError(e.into())).boxed_unsync())
            }
            "gzip" => {
                let mut response = full(StatusCode::OK, "\u{1f}\u{8b} as it is");
                response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                response
            }
            "large" => full(StatusCode::OK, large()),
            "redirect" => {
                let mut response = full(StatusCode::FOUND, "");
                response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/echo"));
                response
            }
            "forbidden" => full(StatusCode::FORBIDDEN, "not you"),
            "watch" | "nosocket" => {
                let body = Watch { says: Arc::clone(&self.says), ended: Ended(self.events.clone(), path) };
                Response::new(body.boxed_unsync())
            }
            "flood" => Response::new(Flood(Arc::clone(&self.flooded)).boxed_unsync()),
            // Never answers. Reads nothing before it is told to; that a client is gone shows only then.
            "stuck" => {
                let _ended = Ended(self.events.clone(), path);
                if !request.body().is_end_stream() {
                    self.read.notified().await;
                    let _cut = request.into_body().collect().await;
                }
                std::future::pending().await
            }
            _ => full(StatusCode::NOT_FOUND, "nothing here"),
        }
    }
}

pub fn large() -> Vec<u8> {
    (0..1_000_000u32).map(|n| n.to_le_bytes()[(n % 3) as usize]).collect()
}

fn full(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}

/// The request's head, in headers of the answer.
fn described(request: &Request<Incoming>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("x-method", HeaderValue::from_str(request.method().as_str()).unwrap());
    headers.insert("x-target", HeaderValue::from_str(&request.uri().to_string()).unwrap());
    for (name, value) in request.headers() {
        headers.append(http::HeaderName::try_from(format!("x-got-{name}")).unwrap(), value.clone());
    }
    headers
}

fn upgrade(request: &Request<Incoming>, path: String, slot: &UpgradeSlot<String>) -> Answer {
    assert_eq!(request.method(), Method::GET);
    let key = request.headers()[header::SEC_WEBSOCKET_KEY].as_bytes();
    let mut response = full(StatusCode::SWITCHING_PROTOCOLS, "");
    *response.headers_mut() = described(request);
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&derive_accept_key(key)).unwrap());
    if let Some(asked) = request.headers().get(header::SEC_WEBSOCKET_PROTOCOL) {
        let first = asked.to_str().unwrap().split(',').next().unwrap().trim().to_owned();
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(&first).unwrap());
    }
    slot.put(path);
    response
}

/// `exec`: what comes on a channel goes back on channel 1, and `exit` ends with a status. `deaf`: nothing is read.
/// Others: an echo.
async fn websocket(mut socket: WebSocketStream<TcpStream>, path: &str) {
    if path.ends_with("/deaf") {
        std::future::pending::<()>().await;
    }
    let exec = path.ends_with("/exec");
    while let Some(Ok(message)) = socket.next().await {
        let reply = match message {
            Message::Binary(bytes) if exec && bytes.ends_with(b"exit") => {
                let status = [&[3], br#"{"status":"Failure","code":7}"#.as_slice()].concat();
                socket.send(Message::Binary(status.into())).await.unwrap();
                let frame = CloseFrame { code: CloseCode::Normal, reason: "done".into() };
                socket.close(Some(frame)).await.unwrap();
                continue;
            }
            Message::Binary(bytes) if exec => Message::Binary([&[1], &bytes[..]].concat().into()),
            message @ (Message::Text(_) | Message::Binary(_)) => message,
            _ => continue,
        };
        socket.send(reply).await.unwrap();
    }
}

struct Ended(mpsc::Sender<Event>, String);

impl Drop for Ended {
    fn drop(&mut self) {
        let _gone = self.0.try_send(Event::Cancelled(self.1.clone()));
    }
}

/// Says what the test says, for ever.
struct Watch {
    says: Says,
    #[expect(dead_code, reason = "its end is what counts")]
    ended: Ended,
}

impl Body for Watch {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut says = self.says.try_lock().expect("one watch at a time");
        says.poll_recv(cx).map(|said| said.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// As much as is taken, and counts it.
struct Flood(Arc<AtomicUsize>);

impl Body for Flood {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        static PIECE: [u8; 16 * 1024] = [7; 16 * 1024];
        self.0.fetch_add(PIECE.len(), Relaxed);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&PIECE)))))
    }
}
