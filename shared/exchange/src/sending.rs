use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use duplex::Duplex;
use http::HeaderMap;
use http_body::Body as HttpBody;

use crate::BoxError;
use crate::encode::Encoder;
use crate::error::Error;
use crate::output::Output;

/// A message on its way out: its head is in the output already.
#[derive(Debug)]
pub(crate) struct Sending<B> {
    encoder: Encoder,
    rest: Rest<B>,
}

/// What is still to be given to the output.
#[derive(Debug)]
enum Rest<B> {
    Body(B),
    /// The end of the body, once there is room behind its last piece.
    End(Option<HeaderMap>),
    Nothing,
    /// Nothing either: the body broke off. What there was of it leaves before that is said.
    Broken(Option<Error>),
}

/// Pieces sent before other tasks get their turn.
const TURN: usize = 64;

impl<B> Sending<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// With `body` none there is nothing behind the head, and the head says so.
    pub(crate) fn new(encoder: Encoder, body: Option<B>) -> Self {
        Self { encoder, rest: body.map_or(Rest::Nothing, Rest::Body) }
    }

    /// Resolves when all of the message has left. What is there leaves whenever the body has no more for the moment.
    pub(crate) fn poll<T: Duplex>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut T,
        out: &mut Output,
    ) -> Poll<Result<(), Error>> {
        for _ in 0..TURN {
            ready!(out.poll_room(cx, io))?;
            self.rest = match &mut self.rest {
                Rest::Body(body) => match Pin::new(&mut *body).poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                        Ok(data) => {
                            self.encoder.data(data, out)?;
                            if !body.is_end_stream() {
                                continue;
                            }
                            Rest::End(None)
                        }
                        Err(frame) => Rest::End(frame.into_trailers().ok()),
                    },
                    Poll::Ready(Some(Err(error))) => Rest::Broken(Some(Error::Body(error.into()))),
                    Poll::Ready(None) => Rest::End(None),
                    Poll::Pending => {
                        ready!(out.poll_flush(cx, io))?;
                        return Poll::Pending;
                    }
                },
                Rest::End(trailers) => {
                    self.encoder.end(trailers.as_ref(), out)?;
                    Rest::Nothing
                }
                Rest::Nothing => return out.poll_flush(cx, io).map_err(Error::from),
                Rest::Broken(error) => {
                    let flushed = ready!(out.poll_flush(cx, io));
                    return Poll::Ready(Err(error
                        .take()
                        .or(flushed.err().map(Error::from))
                        .unwrap_or(Error::Incomplete)));
                }
            };
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
