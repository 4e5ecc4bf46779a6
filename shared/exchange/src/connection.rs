use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use duplex::Duplex;
use http::{Method, Request, Response, StatusCode, header};
use http_body::Body as HttpBody;
use tokio::task::JoinSet;

use crate::decode::Decoder;
use crate::error::{Error, Malformed};
use crate::head::{HeadReader, MAX_HEAD, keeps_alive, parse_response, response_body};
use crate::incoming::{Fed, Feed};
use crate::output::Output;
use crate::pool::Pool;
use crate::sending::Sending;
use crate::{Body, BoxError, Upgraded, encode};

/// An HTTP/1.1 client connection that carries one exchange at a time and is driven by its user. One whose response
/// begins while its request is still being sent gets a task for the rest of that exchange.
#[derive(Debug)]
pub struct Connection<T> {
    io: T,
    /// Received and not yet consumed.
    input: Bytes,
    output: Output,
}

/// What came back for a request.
#[derive(Debug)]
pub enum Reply<T> {
    Response(Response<Body<T>>),
    /// A 101: from here on the transport carries the other protocol.
    Upgraded(Response<()>, Upgraded<T>),
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum SendError<B> {
    /// The connection was already dead and not one byte of the request left: the request is handed back.
    #[error("the connection was closed before the request was sent")]
    Unsent(Box<Request<B>>),
    /// The request may have been received; whether it took effect is unknown.
    #[error("the connection failed before a response arrived")]
    Failed {
        #[source]
        error: Error,
        /// The request, if it had no body.
        request: Option<Box<Request<B>>>,
    },
}

impl<T: Duplex + Send + 'static> Connection<T> {
    /// Speaks HTTP/1.1 over `io`. No byte is sent yet.
    pub fn new(io: T) -> Self {
        Self { io, input: Bytes::new(), output: Output::default() }
    }

    /// Sends `request` and waits for the response head. The connection goes back to `pool` when the response body
    /// has been read to its end and both sides allow it; dropping the future or the body closes the transport.
    ///
    /// # Errors
    /// See [`SendError`].
    pub async fn send<B>(
        mut self: Box<Self>,
        request: Request<B>,
        pool: Option<Arc<Pool<T>>>,
    ) -> Result<Reply<T>, SendError<B>>
    where
        B: HttpBody<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Into<BoxError>,
    {
        if !self.is_reusable() {
            return Err(SendError::Unsent(Box::new(request)));
        }
        let length = if request.body().is_end_stream() { Some(0) } else { request.body().size_hint().exact() };
        let encoder = match encode::request(&request, length, self.output.gathered()) {
            Ok(encoder) => encoder,
            Err(malformed) => return Err(SendError::Failed { error: malformed.into(), request: None }),
        };
        let asked =
            Asked { method: request.method().clone(), upgrade: request.headers().contains_key(header::UPGRADE) };
        let (bodyless, body) =
            if request.body().is_end_stream() { (Some(request), None) } else { (None, Some(request.into_body())) };
        let mut upload = Upload { sending: Sending::new(encoder, body), state: Progress::Going };
        let mut head = HeadReader::new(MAX_HEAD);
        let answer = std::future::poll_fn(|cx| self.poll_answer(cx, &mut upload, &mut head, &asked)).await;
        let (response, decoder) = match answer {
            Ok(answer) => answer,
            Err(error) => return Err(SendError::Failed { error, request: bodyless.map(Box::new) }),
        };
        drop(bodyless);
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Reply::Upgraded(response, Upgraded { io: self.io, read_ahead: self.input }));
        }
        let reusable = matches!(upload.state, Progress::Done)
            && keeps_alive(response.version(), response.headers())
            && !matches!(decoder, Decoder::UntilClose);
        let body = match upload.state {
            Progress::Going => self.into_task(upload, decoder),
            Progress::Done | Progress::Failed(_) => Body::own(self, decoder, pool.filter(|_| reusable)),
        };
        Ok(Reply::Response(response.map(|()| body)))
    }

    /// Sends, and reads the head of the final response.
    fn poll_answer<B>(
        &mut self,
        cx: &mut Context<'_>,
        upload: &mut Upload<B>,
        head: &mut HeadReader,
        asked: &Asked,
    ) -> Poll<Result<(Response<()>, Decoder), Error>>
    where
        B: HttpBody<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        upload.poll(cx, &mut self.io, &mut self.output)?;
        for _ in 0..MAX_INTERIM {
            let head = match ready!(head.poll(cx, &mut self.io, &mut self.input)) {
                Ok(Some(head)) => head,
                Ok(None) => return Poll::Ready(Err(upload.blame(Error::Incomplete))),
                Err(error) => return Poll::Ready(Err(upload.blame(error))),
            };
            let response = parse_response(&head)?;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS && !asked.upgrade {
                return Poll::Ready(Err(Malformed::Switch.into()));
            }
            if response.status().is_informational() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                continue;
            }
            let decoder = response_body(&asked.method, &response)?;
            return Poll::Ready(Ok((response, decoder)));
        }
        Poll::Ready(Err(Malformed::Interim.into()))
    }

    fn into_task<B>(mut self: Box<Self>, mut upload: Upload<B>, decoder: Decoder) -> Body<T>
    where
        B: HttpBody<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (mut feed, incoming) = Feed::new(decoder);
        let mut driving = JoinSet::new();
        driving.spawn(std::future::poll_fn(move |cx| {
            let this = &mut *self;
            let failed = upload.poll(cx, &mut this.io, &mut this.output).is_err();
            match feed.poll(cx, &mut this.io, &mut this.input) {
                // All of the response is there. The request goes on as long as its reader keeps the body.
                Poll::Ready(Ok(Fed::Whole)) if matches!(upload.state, Progress::Going) && !failed => Poll::Pending,
                Poll::Ready(_) => Poll::Ready(()),
                Poll::Pending if failed => Poll::Ready(()),
                Poll::Pending => Poll::Pending,
            }
        }));
        Body::shared(incoming, driving)
    }
}

impl<T: Duplex> Connection<T> {
    /// True while another request can be sent; looks at the transport, so a peer that has closed is noticed.
    pub(crate) fn is_reusable(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.input.is_empty() && self.io.poll_chunk(&mut cx).is_pending()
    }

    /// The peer has said more than it was asked.
    pub(crate) fn has_leftover(&self) -> bool {
        !self.input.is_empty()
    }

    pub(crate) fn reading(&mut self) -> (&mut T, &mut Bytes) {
        (&mut self.io, &mut self.input)
    }
}

/// What a response has to fit.
#[derive(Debug)]
struct Asked {
    method: Method,
    upgrade: bool,
}

/// Responses that only announce another, taken in one go.
const MAX_INTERIM: usize = 8;

/// A request on its way.
#[derive(Debug)]
struct Upload<B> {
    sending: Sending<B>,
    state: Progress,
}

#[derive(Debug)]
enum Progress {
    Going,
    Done,
    /// The peer takes no more; it may have answered all the same.
    Failed(Option<std::io::Error>),
}

impl<B> Upload<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// Err: it cannot be completed from our side.
    fn poll<T: Duplex>(&mut self, cx: &mut Context<'_>, io: &mut T, output: &mut Output) -> Result<(), Error> {
        if let Progress::Going = self.state {
            match self.sending.poll(cx, io, output) {
                Poll::Ready(Ok(())) => self.state = Progress::Done,
                Poll::Ready(Err(Error::Io(error))) => self.state = Progress::Failed(Some(error)),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => {}
            }
        }
        Ok(())
    }

    /// What is to be said when there is no response: that the request could not be sent, if that is the reason.
    fn blame(&mut self, error: Error) -> Error {
        match &mut self.state {
            Progress::Failed(cause) => cause.take().map_or(error, Error::Io),
            Progress::Going | Progress::Done => error,
        }
    }
}
