use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, header};
use http_body::Body as HttpBody;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{BoxError, Connection, Reply, SendError};

/// How many connections may wait for their next request, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct PoolLimits {
    pub max_idle: usize,
    /// Below the peer's own idle limit, so that a request never meets a connection that is being closed.
    pub idle_timeout: Duration,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum PoolError<E> {
    /// There is no new connection to be had.
    #[error("cannot connect")]
    Connect(#[source] E),
    /// A new connection was closed before anything was sent.
    #[error("the connection was closed before the request was sent")]
    Closed,
    /// The request may have been received; whether it took effect is unknown.
    #[error("the connection failed before a response arrived")]
    Failed(#[source] hyper::Error),
}

/// Idle connections to one peer, the most recently used first.
pub struct Pool<T, B>
where
    T: AsyncRead + AsyncWrite + Unpin,
    B: HttpBody<Data = Bytes> + 'static,
{
    limits: PoolLimits,
    idle: Mutex<VecDeque<Idle<T, B>>>,
}

struct Idle<T, B>
where
    T: AsyncRead + AsyncWrite + Unpin,
    B: HttpBody<Data = Bytes> + 'static,
{
    since: Instant,
    connection: Box<Connection<T, B>>,
}

impl<T, B> Pool<T, B>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    #[must_use]
    pub fn new(limits: PoolLimits) -> Arc<Self> {
        Arc::new(Self { limits, idle: Mutex::new(VecDeque::new()) })
    }

    /// Sends `request` on a connection that waits, else on a new one from `connect`.
    ///
    /// A peer may close an idle connection just as the request is sent. A request of which nothing was sent goes out
    /// again in any case; one that asks for nothing to be changed and has no body goes out once more, on a new
    /// connection, even if it may have been received. `no_body` makes the empty body of that copy.
    pub async fn send<E>(
        self: &Arc<Self>,
        mut request: Request<B>,
        connect: impl AsyncFnOnce() -> Result<T, E>,
        no_body: fn() -> B,
    ) -> Result<Reply<T, B>, PoolError<E>> {
        while let Some(connection) = self.take() {
            let copy = copy_if_harmless(&request, no_body);
            match (connection.send(request, Some(Arc::clone(self))).await, copy) {
                (Ok(reply), _) => return Ok(reply),
                (Err(SendError::Unsent(unsent)), _) => request = *unsent,
                (Err(SendError::Failed(_)), Some(copy)) => {
                    request = copy;
                    break;
                }
                (Err(SendError::Failed(error)), None) => return Err(PoolError::Failed(error)),
            }
        }
        let io = connect().await.map_err(PoolError::Connect)?;
        let connection = Box::new(Connection::new(io).await.map_err(PoolError::Failed)?);
        connection.send(request, Some(Arc::clone(self))).await.map_err(|error| match error {
            SendError::Unsent(_) => PoolError::Closed,
            SendError::Failed(error) => PoolError::Failed(error),
        })
    }

    /// A live connection, if one waits.
    pub fn take(&self) -> Option<Box<Connection<T, B>>> {
        loop {
            let mut idle = self.lock().pop_back()?;
            if idle.since.elapsed() < self.limits.idle_timeout && idle.connection.is_reusable() {
                return Some(idle.connection);
            }
        }
    }

    /// Keeps `connection` if it can serve another request; drops it otherwise.
    pub fn put(&self, mut connection: Box<Connection<T, B>>) {
        if self.limits.max_idle == 0 || !connection.is_reusable() {
            return;
        }
        let mut idle = self.lock();
        let oldest = if idle.len() >= self.limits.max_idle { idle.pop_front() } else { None };
        idle.push_back(Idle { since: Instant::now(), connection });
        drop(idle);
        drop(oldest);
    }

    /// Drops what has waited too long or died; to be called now and then, so that an unused pool empties.
    pub fn sweep(&self) {
        let mut waiting = std::mem::take(&mut *self.lock());
        waiting.retain_mut(|idle| idle.since.elapsed() < self.limits.idle_timeout && idle.connection.is_reusable());
        let mut idle = self.lock();
        for newer in idle.drain(..) {
            waiting.push_back(newer);
        }
        *idle = waiting;
    }

    /// Drops every idle connection.
    pub fn clear(&self) {
        let dropped = std::mem::take(&mut *self.lock());
        drop(dropped);
    }

    #[must_use]
    pub fn idle(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Idle<T, B>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Watches and sessions included: nothing has been answered yet when this is used.
fn copy_if_harmless<B: HttpBody>(request: &Request<B>, no_body: fn() -> B) -> Option<Request<B>> {
    // A session is begun by a GET as well, and it may run a command.
    let session = request.headers().contains_key(header::UPGRADE);
    if session || !request.method().is_safe() || !request.body().is_end_stream() {
        return None;
    }
    let mut copy = Request::new(no_body());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    *copy.version_mut() = request.version();
    Some(copy)
}

impl<T, B> fmt::Debug for Pool<T, B>
where
    T: AsyncRead + AsyncWrite + Unpin,
    B: HttpBody<Data = Bytes> + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("limits", &self.limits).finish_non_exhaustive()
    }
}
