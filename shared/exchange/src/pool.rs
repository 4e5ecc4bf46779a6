use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::Body as HttpBody;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{BoxError, Connection};

/// How many connections may wait for their next request, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct PoolLimits {
    pub max_idle: usize,
    /// Below the peer's own idle limit, so that a request never meets a connection that is being closed.
    pub idle_timeout: Duration,
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
        if !connection.is_reusable() {
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

impl<T, B> fmt::Debug for Pool<T, B>
where
    T: AsyncRead + AsyncWrite + Unpin,
    B: HttpBody<Data = Bytes> + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("limits", &self.limits).finish_non_exhaustive()
    }
}
