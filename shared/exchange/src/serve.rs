use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use crate::{BodyError, Upgraded};

/// Where a service leaves what is to happen after its 101: the upstream half of a session, for instance.
#[derive(Debug)]
pub struct UpgradeSlot<U>(Arc<Mutex<Option<U>>>);

impl<U> UpgradeSlot<U> {
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(None)))
    }

    pub fn put(&self, upgrade: U) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(upgrade);
    }

    fn take(&self) -> Option<U> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<U> Default for UpgradeSlot<U> {
    fn default() -> Self {
        Self::new()
    }
}

impl<U> Clone for UpgradeSlot<U> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// Serves HTTP/1.1 on `io` until the peer closes it, or until the service has put something into the slot and
/// answered 101: then the transport and the slot's content are given back.
///
/// When `stop` completes, the request under way is finished and then the connection ends. `io` is shut down after a
/// clean end and merely dropped after an error (the peer broke the protocol or went away, or a response body failed),
/// so that transports which tell the two apart show a cut transfer as such.
pub async fn serve<T, U, F, Fut, B>(
    http: &http1::Builder,
    io: T,
    slot: UpgradeSlot<U>,
    stop: impl Future<Output = ()>,
    service: F,
) -> Result<Option<(Upgraded<T>, U)>, hyper::Error>
where
    T: AsyncRead + AsyncWrite + Unpin,
    F: Fn(Request<Incoming>) -> Fut + Unpin,
    Fut: Future<Output = Response<B>>,
    B: HttpBody<Data = Bytes, Error = BodyError> + 'static,
{
    let mut connection = http.serve_connection(
        TokioIo::new(io),
        service_fn(|request| {
            let response = service(request);
            Box::pin(async { Ok::<_, Infallible>(response.await) })
        }),
    );
    let mut stop = pin!(stop);
    let mut stopped = false;
    std::future::poll_fn(|cx| {
        if !stopped && stop.as_mut().poll(cx).is_ready() {
            stopped = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        connection.poll_without_shutdown(cx)
    })
    .await?;
    let parts = connection.into_parts();
    let mut io = parts.io.into_inner();
    if let Some(upgrade) = slot.take() {
        return Ok(Some((Upgraded { io, read_buf: parts.read_buf }, upgrade)));
    }
    // The peer may already be gone, and then there is nobody to close towards.
    let _closed = io.shutdown().await;
    Ok(None)
}
