use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::{BodyError, BoxError};

/// Told what becomes of a response; dropped with it, which is how it learns the end.
pub trait Observer {
    /// Bytes of the body were handed on.
    fn sent(&mut self, bytes: usize);
    /// The body broke off: what the client has is incomplete.
    fn cut(&mut self, error: &BodyError);
}

/// A response body under observation.
#[derive(Debug)]
pub struct Observed<B, O> {
    body: B,
    observer: O,
}

impl<B, O> Observed<B, O> {
    pub fn new(body: B, observer: O) -> Self {
        Self { body, observer }
    }
}

impl<B, O> HttpBody for Observed<B, O>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
    O: Observer + Unpin,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        Pin::new(&mut this.body).poll_frame(cx).map(|frame| {
            frame.map(|frame| match frame {
                Ok(frame) => {
                    this.observer.sent(frame.data_ref().map_or(0, Bytes::len));
                    Ok(frame)
                }
                Err(error) => {
                    let error = BodyError(error.into());
                    this.observer.cut(&error);
                    Err(error)
                }
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
