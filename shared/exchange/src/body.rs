use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use duplex::Duplex;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::task::JoinSet;

use crate::connection::Connection;
use crate::decode::{Decoded, Decoder};
use crate::error::Error;
use crate::incoming::Incoming;
use crate::pool::Pool;

/// A response body. It drives its connection while it is read, unless the request is still on its way. Dropped before
/// its end, it closes the connection.
#[derive(Debug)]
pub struct Body<T>(Source<T>);

#[derive(Debug)]
enum Source<T> {
    Ended,
    Own(Own<T>),
    /// The request goes on in a task of its own, which ends with the body: a response that nobody reads for the moment
    /// must not stop it.
    Shared(Incoming, #[expect(dead_code, reason = "owned, not used")] JoinSet<()>),
}

#[derive(Debug)]
struct Own<T> {
    connection: Box<Connection<T>>,
    decoder: Decoder,
    /// Where the connection goes at the end; nowhere if one side closes it.
    pool: Option<Arc<Pool<T>>>,
}

impl<T: Duplex> Body<T> {
    /// Of a response whose request has been sent whole.
    pub(crate) fn own(connection: Box<Connection<T>>, decoder: Decoder, pool: Option<Arc<Pool<T>>>) -> Self {
        let own = Own { connection, decoder, pool };
        if own.decoder.is_done() {
            own.finish();
            return Self(Source::Ended);
        }
        Self(Source::Own(own))
    }

    pub(crate) fn shared(incoming: Incoming, driving: JoinSet<()>) -> Self {
        Self(Source::Shared(incoming, driving))
    }
}

impl<T: Duplex> Own<T> {
    fn finish(self) {
        if let Some(pool) = self.pool {
            pool.put(self.connection);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, Error>> {
        let (io, input) = self.connection.reading();
        loop {
            match self.decoder.decode(input)? {
                Decoded::Data(data) => return Poll::Ready(Ok(Some(Frame::data(data)))),
                Decoded::Trailers(trailers) => return Poll::Ready(Ok(Some(Frame::trailers(trailers)))),
                Decoded::End => return Poll::Ready(Ok(None)),
                Decoded::Starved => match ready!(io.poll_chunk(cx))? {
                    Some(chunk) => *input = chunk,
                    None => {
                        // It ends here in any case.
                        self.pool = None;
                        self.decoder.close()?;
                    }
                },
            }
        }
    }
}

impl<T: Duplex> HttpBody for Body<T> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let (polled, ended) = match &mut self.0 {
            Source::Ended => return Poll::Ready(None),
            Source::Shared(incoming, _) => return Pin::new(incoming).poll_frame(cx),
            Source::Own(own) => (ready!(own.poll(cx)), own.decoder.is_done()),
        };
        if ended || polled.is_err() {
            let source = std::mem::replace(&mut self.0, Source::Ended);
            if let (Source::Own(own), true) = (source, polled.is_ok()) {
                own.finish();
            }
        }
        Poll::Ready(polled.transpose())
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Ended => true,
            Source::Own(_) => false,
            Source::Shared(incoming, _) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Ended => SizeHint::with_exact(0),
            Source::Own(own) => own.decoder.remaining().map_or_else(SizeHint::default, SizeHint::with_exact),
            Source::Shared(incoming, _) => incoming.size_hint(),
        }
    }
}
