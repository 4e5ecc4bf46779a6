use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use duplex::Duplex;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body as HttpBody;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use crate::encode::{self, Answer};
use crate::error::{Error, Malformed};
use crate::head::{HeadReader, MAX_HEAD, check_host, keeps_alive, parse_request, request_body};
use crate::incoming::{Fed, Feed};
use crate::output::Output;
use crate::sending::Sending;
use crate::{BodyError, Incoming, UpgradeSlot, Upgraded};

/// How a connection is served.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// False: the connection ends with its first response.
    pub keep_alive: bool,
    /// Largest head that is taken, in bytes.
    pub max_head: usize,
    /// How long a head may take from its first byte to its last, the first of a connection from the connection's start.
    /// None: for ever.
    pub head_timeout: Option<Duration>,
    /// Whether a response without a `Date` gets one.
    pub date: bool,
    /// What answers a request that cannot be understood.
    pub refusal: fn(Malformed) -> Response<Vec<u8>>,
}

impl Settings {
    /// Says so in plain text.
    pub const PLAIN: fn(Malformed) -> Response<Vec<u8>> = plain;
}

impl Default for Settings {
    /// For a stream from one of our own: no timeouts, nothing added.
    fn default() -> Self {
        Self { keep_alive: true, max_head: MAX_HEAD, head_timeout: None, date: false, refusal: plain }
    }
}

fn plain(malformed: Malformed) -> Response<Vec<u8>> {
    let mut response = Response::new(format!("{malformed}\n").into_bytes());
    *response.status_mut() = malformed.status();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// What is still read of a request whose response is complete, so that a client which is sending can read it.
const LINGER_BYTES: usize = 4 * 1024 * 1024;
const LINGER: Duration = Duration::from_secs(2);

/// How long a connection that is to end waits for a request that may be on its way.
const LAST_REQUEST: Duration = Duration::from_millis(500);

/// Serves HTTP/1.1 on `io` until the peer closes it, or until the service has put something into the slot and
/// answered 101: then the transport and the slot's content are given back.
///
/// When `stop` completes, the request under way is finished, or one that comes within half a second, and then the connection
/// ends. `io` is shut down after a
/// clean end and merely dropped after an error (the peer broke the protocol or went away, or a response body failed),
/// so that transports which tell the two apart show a cut transfer as such. A client that closes, or ends its
/// direction, before it has its response has gone: the service's future or the response body is dropped.
///
/// # Errors
/// Why the connection did not end well. A malformed head has been answered.
pub async fn serve<T, U, F, Fut, B>(
    settings: Settings,
    io: T,
    slot: UpgradeSlot<U>,
    stop: impl Future<Output = ()>,
    service: F,
) -> Result<Option<(Upgraded<T>, U)>, Error>
where
    T: Duplex,
    F: Fn(Request<Incoming>) -> Fut,
    Fut: Future<Output = Response<B>>,
    B: HttpBody<Data = Bytes, Error = BodyError> + Unpin,
{
    let mut stop = Stop { stop: pin!(stop), stopped: false };
    let mut server = Server { settings, io, input: Bytes::new(), output: Output::default(), timer: None, first: true };
    loop {
        let (head, decoder) = match server.request(&mut stop).await {
            Ok(Some(request)) => request,
            Ok(None) => break,
            Err(Error::Malformed(malformed)) => {
                server.refuse(malformed).await?;
                return Err(malformed.into());
            }
            Err(error) => return Err(error),
        };
        let mut keep_alive = settings.keep_alive && keeps_alive(head.version(), head.headers());
        let (version, to_head) = (head.version(), head.method() == Method::HEAD);
        let expects = version == Version::HTTP_11 && head.headers().contains_key(header::EXPECT);
        let (feed, body) = Feed::new(decoder);
        let mut exchange = Exchange { feed, expects };
        // In a box, so that it takes no room while the response is sent, which may be for hours.
        let mut answering = Box::pin(service(head.map(|()| body)));
        let response = std::future::poll_fn(|cx| {
            stop.poll(cx);
            if let Poll::Ready(response) = answering.as_mut().poll(cx) {
                return Poll::Ready(Ok(response));
            }
            if let Poll::Ready(Err(error)) = exchange.go_on(cx, &mut server) {
                return Poll::Ready(Err(error.into()));
            }
            exchange.poll(cx, &mut server).map(Err)
        })
        .await?;
        drop(answering);

        // Whoever was not told to go on may not send its body at all.
        let abandoned = exchange.expects && !exchange.feed.is_whole();
        exchange.expects = false;
        // What is still on its way may not be wanted in the end, and this is the last moment to say so.
        keep_alive &= exchange.feed.is_whole() && !stop.stopped && keeps_alive(Version::HTTP_11, response.headers());
        let answer = Answer { to_head, version, keep_alive, date: settings.date };
        let length = if response.body().is_end_stream() { Some(0) } else { response.body().size_hint().exact() };
        let encoder = encode::response(&response, answer, length, server.output.gathered())?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            std::future::poll_fn(|cx| server.output.poll_flush(cx, &mut server.io)).await?;
            return Ok(slot.take().map(|upgrade| (Upgraded { io: server.io, read_ahead: server.input }, upgrade)));
        }
        let bodyless = to_head || response.body().is_end_stream();
        let mut sending = Sending::new(encoder, Some(response.into_body()).filter(|_| !bodyless));
        std::future::poll_fn(|cx| {
            stop.poll(cx);
            match sending.poll(cx, &mut server.io, &mut server.output) {
                Poll::Pending => exchange.poll(cx, &mut server).map(Err),
                sent => sent,
            }
        })
        .await?;
        drop(sending);
        if abandoned || !exchange.rest(&mut server).await? || !keep_alive && !server.input.is_empty() {
            server.linger().await;
            return Ok(None);
        }
        if !keep_alive {
            break;
        }
    }
    // The peer may already be gone, and then there is nobody to close towards.
    let _closed = server.io.shutdown().await;
    Ok(None)
}

struct Stop<'a, S> {
    stop: Pin<&'a mut S>,
    stopped: bool,
}

impl<S: Future<Output = ()>> Stop<'_, S> {
    fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        self.stopped = self.stopped || self.stop.as_mut().poll(cx).is_ready();
        self.stopped
    }
}

struct Server<T> {
    settings: Settings,
    io: T,
    /// Received and not yet consumed.
    input: Bytes,
    output: Output,
    /// Moved only when it runs out, which is seldom.
    timer: Option<Pin<Box<Sleep>>>,
    /// No request has come yet.
    first: bool,
}

impl<T: Duplex> Server<T> {
    /// The next request; none when the peer has closed, or nothing was begun when asked to stop.
    async fn request<S: Future<Output = ()>>(
        &mut self,
        stop: &mut Stop<'_, S>,
    ) -> Result<Option<(Request<()>, crate::decode::Decoder)>, Error> {
        let mut reader = HeadReader::new(self.settings.max_head);
        let since = Instant::now();
        let (mut begun, mut lingering) = (None, None);
        let head = std::future::poll_fn(|cx| {
            if let Poll::Ready(head) = reader.poll(cx, &mut self.io, &mut self.input) {
                return Poll::Ready(head);
            }
            if stop.poll(cx) && !reader.has_begun() {
                // A request may be on its way: the peer learns with its answer that there will be no other.
                let until = *lingering.get_or_insert_with(|| Instant::now() + LAST_REQUEST);
                return if self.is_past(until, cx) { Poll::Ready(Ok(None)) } else { Poll::Pending };
            }
            let from = if reader.has_begun() {
                Some(*begun.get_or_insert_with(|| if self.first { since } else { Instant::now() }))
            } else {
                self.first.then_some(since)
            };
            let limit = from.zip(self.settings.head_timeout).map(|(from, timeout)| from + timeout);
            if limit.is_some_and(|limit| self.is_past(limit, cx)) {
                return Poll::Ready(if reader.has_begun() { Err(Error::Timeout) } else { Ok(None) });
            }
            Poll::Pending
        });
        let Some(head) = head.await? else { return Ok(None) };
        self.first = false;
        let request = parse_request(&head)?;
        let decoder = request_body(&request)?;
        check_host(&request)?;
        Ok(Some((request, decoder)))
    }

    /// Whether `limit` has come; if not, the task is woken then.
    fn is_past(&mut self, limit: Instant, cx: &mut Context<'_>) -> bool {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(limit)));
        if timer.deadline() > limit {
            timer.as_mut().reset(limit);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= limit {
                return true;
            }
            timer.as_mut().reset(limit);
        }
        false
    }

    /// Answers what is no proper request.
    async fn refuse(&mut self, malformed: Malformed) -> Result<(), Error> {
        let response = (self.settings.refusal)(malformed);
        let answer = Answer { to_head: false, version: Version::HTTP_11, keep_alive: false, date: self.settings.date };
        encode::response(&response, answer, Some(response.body().len() as u64), self.output.gathered())?;
        self.output.gathered().extend_from_slice(response.body());
        std::future::poll_fn(|cx| self.output.poll_flush(cx, &mut self.io)).await?;
        self.linger().await;
        Ok(())
    }

    /// Ends our direction and takes for a moment what the peer still sends: closed at once, its transport would drop
    /// the response that it has not read yet.
    async fn linger(&mut self) {
        let rest = async {
            self.io.shutdown().await?;
            let mut taken = 0;
            while taken < LINGER_BYTES
                && let Some(chunk) = std::future::poll_fn(|cx| self.io.poll_chunk(cx)).await?
            {
                taken += chunk.len();
            }
            Ok::<_, std::io::Error>(())
        };
        // However it ends, the connection is closed now.
        let _ended = timeout(LINGER, rest).await;
    }
}

/// The request's side of an exchange.
struct Exchange {
    feed: Feed,
    /// The client waits for a word before it sends its body.
    expects: bool,
}

impl Exchange {
    /// Before the response: tells a client that waits for it to send the body, once somebody wants it.
    fn go_on<T: Duplex>(&mut self, cx: &mut Context<'_>, server: &mut Server<T>) -> Poll<std::io::Result<()>> {
        if self.expects && self.feed.is_wanted() {
            self.expects = false;
            server.output.gathered().extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        server.output.poll_flush(cx, &mut server.io)
    }

    /// Reads the request's body as far as it is wanted. Resolves when there is nobody to answer any more.
    fn poll<T: Duplex>(&mut self, cx: &mut Context<'_>, server: &mut Server<T>) -> Poll<Error> {
        match self.feed.poll(cx, &mut server.io, &mut server.input) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(error),
            // The next request may come early; more than a piece of it is not read.
            Poll::Ready(Ok(Fed::Whole)) if server.input.is_empty() => match server.io.poll_chunk(cx) {
                Poll::Ready(Ok(Some(chunk))) => {
                    server.input = chunk;
                    server.io.poll_reset(cx).map(Error::from)
                }
                Poll::Ready(Ok(None)) => Poll::Ready(Error::Gone),
                Poll::Ready(Err(error)) => Poll::Ready(error.into()),
                Poll::Pending => Poll::Pending,
            },
            Poll::Ready(Ok(_)) => server.io.poll_reset(cx).map(Error::from),
        }
    }

    /// After the response: true when all of the request was read, by whoever still reads it.
    async fn rest<T: Duplex>(&mut self, server: &mut Server<T>) -> Result<bool, Error> {
        let fed = std::future::poll_fn(|cx| self.feed.poll(cx, &mut server.io, &mut server.input)).await?;
        Ok(fed == Fed::Whole)
    }
}
