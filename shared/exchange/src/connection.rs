use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

use crate::BoxError;
use crate::pool::Pool;
use crate::upload::Upload;

/// An HTTP/1.1 client connection that carries one exchange at a time and is driven by its user. One whose response
/// begins while its request is still being sent gets a task for the rest of that exchange: a response that nobody
/// reads for the moment must not stop the request.
pub struct Connection<T, B>
where
    T: AsyncRead + AsyncWrite + Unpin,
    B: HttpBody<Data = Bytes> + 'static,
{
    sender: http1::SendRequest<Upload<B>>,
    driver: http1::Connection<TokioIo<T>, Upload<B>>,
    /// The driver has completed; polling it again would panic.
    finished: bool,
}

/// What came back for a request.
#[derive(Debug)]
pub enum Reply<T, B>
where
    T: AsyncRead + AsyncWrite + Unpin,
    B: HttpBody<Data = Bytes> + 'static,
{
    Response(Response<Body<T, B>>),
    /// A 101: from here on the transport carries the other protocol.
    Upgraded(Response<()>, Upgraded<T>),
}

/// The transport after a 101, with the bytes that had already been read from it.
#[derive(Debug)]
pub struct Upgraded<T> {
    pub io: T,
    pub read_buf: Bytes,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum SendError<B> {
    /// The connection was already dead and not one byte of the request left: the request is handed back.
    #[error("the connection was closed before the request was sent")]
    Unsent(Box<Request<B>>),
    /// The request may have been received; whether it took effect is unknown.
    #[error("the connection failed before a response arrived")]
    Failed(#[source] hyper::Error),
}

impl<T, B> Connection<T, B>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// Speaks HTTP/1.1 over `io`. No byte is sent yet.
    pub async fn new(io: T) -> Result<Self, hyper::Error> {
        let (sender, driver) = http1::Builder::new().handshake(TokioIo::new(io)).await?;
        Ok(Self { sender, driver, finished: false })
    }

    /// Sends `request` and waits for the response head. The connection goes back to `pool` when the response body
    /// has been read to its end and both sides allow it; dropping the future or the body closes the transport.
    pub async fn send(
        mut self: Box<Self>,
        request: Request<B>,
        pool: Option<Arc<Pool<T, B>>>,
    ) -> Result<Reply<T, B>, SendError<B>> {
        let uploading = (!request.body().is_end_stream()).then(|| Arc::new(AtomicBool::new(true)));
        let request = request.map(|body| Upload::new(body, uploading.clone()));
        let mut answer = pin!(self.sender.try_send_request(request));
        let outcome = std::future::poll_fn(|cx| {
            self.poll_driver(cx);
            answer.as_mut().poll(cx)
        })
        .await;
        let response = match outcome {
            Ok(response) => response,
            Err(mut error) => {
                return Err(match error.take_message() {
                    Some(request) => SendError::Unsent(Box::new(request.map(Upload::into_inner))),
                    None => SendError::Failed(error.into_error()),
                });
            }
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let (head, _) = response.into_parts();
            let upgraded = self.into_upgraded().await;
            return Ok(Reply::Upgraded(Response::from_parts(head, ()), upgraded));
        }
        let (head, incoming) = response.into_parts();
        let mut body = if uploading.is_some_and(|uploading| uploading.load(Relaxed)) {
            Body { incoming, connection: None, pool: None, driving: Some(self.into_task()) }
        } else {
            Body { incoming, connection: Some(self), pool, driving: None }
        };
        if body.incoming.is_end_stream() {
            body.finish();
        }
        Ok(Reply::Response(Response::from_parts(head, body)))
    }

    async fn into_upgraded(mut self: Box<Self>) -> Upgraded<T> {
        std::future::poll_fn(|cx| {
            self.poll_driver(cx);
            if self.finished { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        let parts = self.driver.into_parts();
        Upgraded { io: parts.io.into_inner(), read_buf: parts.read_buf }
    }

    fn into_task(mut self: Box<Self>) -> JoinSet<()> {
        let mut driving = JoinSet::new();
        driving.spawn(async move {
            std::future::poll_fn(|cx| {
                self.poll_driver(cx);
                if self.finished { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        });
        driving
    }
}

impl<T, B> Connection<T, B>
where
    T: AsyncRead + AsyncWrite + Unpin,
    B: HttpBody<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    /// True while another request can be sent; looks at the transport, so a peer that has closed is noticed.
    pub(crate) fn is_reusable(&mut self) -> bool {
        self.poll_driver(&mut Context::from_waker(Waker::noop()));
        !self.finished && self.sender.is_ready()
    }

    /// Errors are not lost here: hyper also delivers them to the pending answer or body.
    fn poll_driver(&mut self, cx: &mut Context<'_>) {
        if !self.finished && self.driver.poll_without_shutdown(cx).is_ready() {
            self.finished = true;
        }
    }
}

impl<T, B> fmt::Debug for Connection<T, B>
where
    T: AsyncRead + AsyncWrite + Unpin,
    B: HttpBody<Data = Bytes> + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("finished", &self.finished).finish_non_exhaustive()
    }
}

/// A response body that drives its connection while it is read, unless the request is still on its way.
#[derive(Debug)]
pub struct Body<T, B>
where
    T: AsyncRead + AsyncWrite + Unpin,
    B: HttpBody<Data = Bytes> + 'static,
{
    incoming: Incoming,
    connection: Option<Box<Connection<T, B>>>,
    pool: Option<Arc<Pool<T, B>>>,
    /// Drives the connection instead; ends with the body.
    driving: Option<JoinSet<()>>,
}

impl<T, B> Body<T, B>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn finish(&mut self) {
        if let (Some(connection), Some(pool)) = (self.connection.take(), self.pool.take()) {
            pool.put(connection);
        }
        self.driving = None;
    }
}

impl<T, B> HttpBody for Body<T, B>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = &mut *self;
        let mut frame = Pin::new(&mut this.incoming).poll_frame(cx);
        if let (Poll::Pending, Some(connection)) = (&frame, this.connection.as_mut()) {
            connection.poll_driver(cx);
            frame = Pin::new(&mut this.incoming).poll_frame(cx);
        }
        match &frame {
            Poll::Ready(None) => this.finish(),
            Poll::Ready(Some(Ok(_))) if this.incoming.is_end_stream() => this.finish(),
            Poll::Ready(Some(Err(_))) => (this.connection, this.driving) = (None, None),
            _ => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
