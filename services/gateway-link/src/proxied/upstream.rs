//! The way of requests to the cluster: the same bus streams as those of streams of the link.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bus::{Bus, BusStream, OpenError, OpenHeader};
use bytes::Bytes;
use exchange::{BoxError, Pool, PoolError, PoolLimits, Reply};
use http::{Request, header};
use http_body::Body;
use protocol::{HttpTarget, StreamKind};

use super::route::Route;
use crate::refusal::{API_SERVER, status};

/// Streams that wait for a next request. The executor holds nothing of the API server's for one that does.
const KUBE: PoolLimits = PoolLimits { max_idle: 32, idle_timeout: Duration::from_secs(60) };
/// The executor keeps a connection to the Service for each.
const SERVICE: PoolLimits = PoolLimits { max_idle: 4, idle_timeout: Duration::from_secs(20) };
/// Services whose streams are kept.
const SERVICES: usize = 64;

/// Idle streams of one link.
#[derive(Debug)]
pub struct Upstream {
    bus: Bus,
    kube: Arc<Pool<BusStream>>,
    services: Mutex<HashMap<HttpTarget, Arc<Pool<BusStream>>>>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("{0}")]
    Open(String),
    #[error("the bus closed each stream to {0} before the request was sent; try again")]
    Closed(String),
    #[error("the way to {to} broke before the answer, and it is not known whether the request takes effect")]
    Failed { to: String, source: exchange::Error },
}

impl Upstream {
    pub fn new(bus: Bus) -> Self {
        Self { bus, kube: Pool::new(KUBE), services: Mutex::default() }
    }

    /// Dropping the future, or the body of the answer, cancels the request at its other end.
    pub async fn send<B>(&self, request: Request<B>, route: &Route, id: &str) -> Result<Reply<BusStream>, UpstreamError>
    where
        B: Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let pool = self.pool(route);
        // A session takes its stream with it, and a stream that waited may be one whose executor is just leaving.
        let session = request.headers().contains_key(header::UPGRADE);
        let from = if session { Pool::new(PoolLimits { max_idle: 0, idle_timeout: Duration::ZERO }) } else { pool };
        from.send(request, || self.open(route, id, &from)).await.map_err(|error| match error {
            PoolError::Connect(error) => UpstreamError::Open(refused(route, &error)),
            PoolError::Closed => UpstreamError::Closed(route.name()),
            PoolError::Failed(source) => UpstreamError::Failed { to: route.name(), source },
        })
    }

    async fn open(
        &self,
        route: &Route,
        id: &str,
        pool: &Arc<Pool<BusStream>>,
    ) -> Result<(BusStream, Arc<Pool<BusStream>>), OpenError> {
        let kind = match route {
            Route::Kube => StreamKind::Kube,
            Route::Service(_) => StreamKind::Http,
        };
        let header = OpenHeader { id: id.to_owned(), target: route.target(), traceparent: None };
        Ok((self.bus.open(kind, header, Bytes::new()).await?, Arc::clone(pool)))
    }

    fn pool(&self, route: &Route) -> Arc<Pool<BusStream>> {
        let Route::Service(target) = route else { return Arc::clone(&self.kube) };
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        if services.len() >= SERVICES && !services.contains_key(target) {
            services.retain(|_, pool| pool.idle() > 0);
        }
        if services.len() >= SERVICES {
            return services.get(target).cloned().unwrap_or_else(|| Pool::new(SERVICE));
        }
        Arc::clone(services.entry(target.clone()).or_insert_with(|| Pool::new(SERVICE)))
    }

    /// Lets streams go that have waited too long.
    pub fn sweep(&self) {
        self.kube.sweep();
        self.services.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, pool| {
            pool.sweep();
            pool.idle() > 0
        });
    }
}

fn refused(route: &Route, error: &OpenError) -> String {
    let to = match route {
        Route::Kube => API_SERVER.to_owned(),
        Route::Service(_) => route.name(),
    };
    status(&to, error).message
}
