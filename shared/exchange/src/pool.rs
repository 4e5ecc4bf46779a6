use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use duplex::Duplex;
use http::{Request, header};
use http_body::Body as HttpBody;

use crate::{BoxError, Connection, Error, Reply, SendError};

/// How many connections may wait for their next request, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct PoolLimits {
    /// The one that has waited longest goes when there would be more; 0: none is kept.
    pub max_idle: usize,
    /// Below the peer's own idle limit, so that a request never meets a connection that is being closed.
    pub idle_timeout: Duration,
}

/// New connections that are tried for a request as long as nothing of it was sent.
const NEW: usize = 2;

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum PoolError<E> {
    /// There is no new connection to be had.
    #[error("cannot connect")]
    Connect(#[source] E),
    /// Each new connection was closed before anything was sent.
    #[error("the connection was closed before the request was sent")]
    Closed,
    /// The request may have been received; whether it took effect is unknown.
    #[error("the connection failed before a response arrived")]
    Failed(#[source] Error),
}

/// Idle connections to one peer, the most recently used first.
pub struct Pool<T> {
    limits: PoolLimits,
    idle: Mutex<VecDeque<Idle<T>>>,
}

struct Idle<T> {
    since: Instant,
    connection: Box<Connection<T>>,
}

impl<T: Duplex + Send + 'static> Pool<T> {
    #[must_use]
    pub fn new(limits: PoolLimits) -> Arc<Self> {
        Arc::new(Self { limits, idle: Mutex::new(VecDeque::new()) })
    }

    /// Sends `request` on a connection that waits, else on a new one from `connect`, which also says in which pool that one
    /// waits afterwards: there may be another way to the same end.
    ///
    /// A peer may close an idle connection just as the request is sent. A request of which nothing was sent goes out
    /// again in any case; one that asks for nothing to be changed and has no body goes out once more, on a new
    /// connection, even if it may have been received.
    ///
    /// # Errors
    /// See [`PoolError`].
    pub async fn send<B, E, F>(
        self: &Arc<Self>,
        mut request: Request<B>,
        connect: impl Fn() -> F,
    ) -> Result<Reply<T>, PoolError<E>>
    where
        F: Future<Output = Result<(T, Arc<Self>), E>>,
        B: HttpBody<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Into<BoxError>,
    {
        while let Some(connection) = self.take() {
            match connection.send(request, Some(Arc::clone(self))).await {
                Ok(reply) => return Ok(reply),
                Err(SendError::Unsent(unsent)) => request = *unsent,
                Err(SendError::Failed { error, request: bodyless }) => match bodyless.filter(|r| is_harmless(r)) {
                    Some(again) => {
                        request = *again;
                        break;
                    }
                    None => return Err(PoolError::Failed(error)),
                },
            }
        }
        for _ in 0..NEW {
            let (io, home) = connect().await.map_err(PoolError::Connect)?;
            match Box::new(Connection::new(io)).send(request, Some(home)).await {
                Ok(reply) => return Ok(reply),
                Err(SendError::Unsent(unsent)) => request = *unsent,
                Err(SendError::Failed { error, .. }) => return Err(PoolError::Failed(error)),
            }
        }
        Err(PoolError::Closed)
    }

    /// A live connection, if one waits.
    pub fn take(&self) -> Option<Box<Connection<T>>> {
        loop {
            let mut idle = self.lock().pop_back()?;
            if idle.since.elapsed() < self.limits.idle_timeout && idle.connection.is_reusable() {
                return Some(idle.connection);
            }
        }
    }
}

impl<T: Duplex> Pool<T> {
    /// Keeps `connection` for another request; whether it can serve one is found out then.
    pub(crate) fn put(&self, connection: Box<Connection<T>>) {
        if self.limits.max_idle == 0 || connection.has_leftover() {
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

    /// How many wait.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Idle<T>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a request may be received twice. Watches included: nothing has been answered yet when this is asked. A session
/// is begun by a GET as well, but it may run a command.
fn is_harmless<B>(request: &Request<B>) -> bool {
    request.method().is_safe() && !request.headers().contains_key(header::UPGRADE)
}

impl<T> fmt::Debug for Pool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("limits", &self.limits).finish_non_exhaustive()
    }
}
