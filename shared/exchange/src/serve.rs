use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use crate::{BoxError, Relayed, Upgraded, relay};

/// Where a service leaves the upstream half of an upgrade before it answers 101.
#[derive(Debug)]
pub struct UpgradeSlot<U>(Arc<Mutex<Option<Upgraded<U>>>>);

impl<U> UpgradeSlot<U> {
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::default())
    }

    pub fn put(&self, upstream: Upgraded<U>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(upstream);
    }

    #[must_use]
    pub fn take(&self) -> Option<Upgraded<U>> {
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

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The peer broke the protocol or went away, or a response body failed and its transfer was cut.
    #[error("HTTP connection failed")]
    Http(#[source] hyper::Error),
    #[error("upgraded connection failed")]
    Relay(#[source] io::Error),
}

/// Serves HTTP/1.1 on `io` until the peer closes it. When the service has left an upstream in the slot and answers
/// 101, the connection turns into a relay between the two. Returns the bytes of that relay, if there was one.
///
/// `io` is shut down after a clean end and merely dropped after an error, so that transports which tell the two
/// apart show a cut transfer as such.
pub async fn serve<T, U, F, Fut, B>(
    http: &http1::Builder,
    io: T,
    slot: UpgradeSlot<U>,
    service: F,
) -> Result<Option<Relayed>, ServeError>
where
    T: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
    F: Fn(Request<Incoming>) -> Fut + Unpin,
    Fut: Future<Output = Result<Response<B>, BoxError>>,
    B: HttpBody<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    let mut connection = http.serve_connection(TokioIo::new(io), service_fn(|request| Box::pin(service(request))));
    std::future::poll_fn(|cx| connection.poll_without_shutdown(cx)).await.map_err(ServeError::Http)?;
    let parts = connection.into_parts();
    let mut io = parts.io.into_inner();
    match slot.take() {
        Some(upstream) => {
            let client = Upgraded { io, read_buf: parts.read_buf };
            relay(client, upstream).await.map(Some).map_err(ServeError::Relay)
        }
        None => {
            // The peer may already be gone, and then there is nobody to close towards.
            let _closed = io.shutdown().await;
            Ok(None)
        }
    }
}
