//! A request on a stream of a cluster's links.

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use exchange::{BoxError, Pool, PoolError, PoolLimits, Reply};
use futures::future::select_ok;
use http::Request;
use mux::MuxStream;
use protocol::{StreamHeader, StreamId, StreamKind, Target, TraceParent};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::clusters::{AgentLink, Cluster};

/// How long a request waits where every link is busy.
pub const OPENING: Duration = Duration::from_secs(5);

/// Where a request goes in its cluster.
#[derive(Clone, Copy, Debug)]
pub enum Destination<'a> {
    ApiServer,
    Service(&'a Target),
}

/// What a stream's header says of traces.
#[derive(Clone, Copy, Debug, Default)]
pub struct StreamTrace {
    /// The request gets a stream of its own, because the hops between see only the stream's header.
    pub own: bool,
    pub traceparent: Option<TraceParent>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    #[error("cannot open a stream to the cluster: {0}")]
    Open(#[source] StreamError),
    #[error("the link to the cluster was lost")]
    Lost,
    /// It is not known whether the request takes effect.
    #[error("the connection to the cluster broke before it answered")]
    Broken(#[source] exchange::Error),
}

#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error(transparent)]
    Open(#[from] mux::OpenError),
    #[error(transparent)]
    Header(#[from] std::io::Error),
    #[error("no id for the stream: {0}")]
    Id(#[from] protocol::InvalidId),
    #[error("the agent has been replaced by one without streams")]
    NoStreams,
    #[error("the agent has not taken the streams before this one for {}s", OPENING.as_secs())]
    Busy,
}

/// Sends over `link`, or over another one as long as nothing was sent. Gives the one that it was.
pub async fn send<B>(
    cluster: &Cluster,
    link: &Arc<AgentLink>,
    destination: Destination<'_>,
    request: Request<B>,
    trace: StreamTrace,
) -> Result<(Reply<MuxStream>, Arc<AgentLink>), NoAnswer>
where
    B: http_body::Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BoxError>,
{
    let own = trace.own.then(|| Pool::new(PoolLimits { max_idle: 0, idle_timeout: Duration::ZERO }));
    let pool = own.clone().or_else(|| destination.pool(link)).ok_or(NoAnswer::Open(StreamError::NoStreams))?;
    let opening = Opening { destination, traceparent: trace.traceparent, own: own.as_ref() };
    let tried = Mutex::new(Vec::new());
    let sent = pool.send(request, || connect(cluster, link, &tried, &opening)).await;
    let reply = sent.map_err(|error| match error {
        PoolError::Connect(error) => NoAnswer::Open(error),
        PoolError::Closed => NoAnswer::Lost,
        PoolError::Failed(error) => NoAnswer::Broken(error),
    })?;
    let used = tried.into_inner().unwrap_or_else(PoisonError::into_inner).pop();
    Ok((reply, used.unwrap_or_else(|| Arc::clone(link))))
}

impl Destination<'_> {
    /// Streams of the link that lead there and are idle.
    fn pool(self, link: &AgentLink) -> Option<Arc<Pool<MuxStream>>> {
        match self {
            Self::ApiServer => link.streams().cloned(),
            Self::Service(target) => link.service(target),
        }
    }
}

/// How a stream is begun.
#[derive(Debug)]
struct Opening<'a> {
    destination: Destination<'a>,
    traceparent: Option<TraceParent>,
    /// Where it waits afterwards, if not with those of its link.
    own: Option<&'a Arc<Pool<MuxStream>>>,
}

/// A stream of `first`, or of one that was not tried yet, and the pool for when it is idle. One whose agent has yet to
/// take earlier streams is waited for only when no other can open one. The last one tried is used.
async fn connect(
    cluster: &Cluster,
    first: &Arc<AgentLink>,
    tried: &Mutex<Vec<Arc<AgentLink>>>,
    opening: &Opening<'_>,
) -> Result<(MuxStream, Arc<Pool<MuxStream>>), StreamError> {
    let try_it = |link: &Arc<AgentLink>| tried.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(link));
    let next = || {
        let tried = tried.lock().unwrap_or_else(PoisonError::into_inner);
        if tried.is_empty() { Some(Arc::clone(first)) } else { cluster.pick(&tried) }
    };
    let pool = |streams: Arc<Pool<MuxStream>>| opening.own.cloned().unwrap_or(streams);
    let mut failed = None;
    let mut busy = Vec::new();
    // Where there is one link only, it is tried again.
    let mut link = Some(next().unwrap_or_else(|| Arc::clone(first)));
    while let Some(trying) = link {
        try_it(&trying);
        let opened = match opening.destination.pool(&trying) {
            Some(streams) => trying.link.try_open().map(|stream| (stream, streams)).map_err(StreamError::from),
            None => Err(StreamError::NoStreams),
        };
        match opened {
            Ok((Some(stream), streams)) => match begin(stream, &trying, opening).await {
                Ok(stream) => return Ok((stream, pool(streams))),
                Err(error) => failed = Some(error),
            },
            Ok((None, streams)) => busy.push((Arc::clone(&trying), streams)),
            Err(error) => failed = Some(error),
        }
        link = next();
    }
    if busy.is_empty() {
        return Err(failed.unwrap_or(StreamError::NoStreams));
    }
    // The first of them that is busy no more.
    let waiting = busy
        .into_iter()
        .map(|(link, streams)| Box::pin(async move { Ok::<_, StreamError>((link.link.open().await?, link, streams)) }));
    let first = timeout(OPENING, select_ok(waiting)).await.map_err(|_| StreamError::Busy)?;
    let ((stream, link, streams), _others) = first?;
    try_it(&link);
    Ok((begin(stream, &link, opening).await?, pool(streams)))
}

/// Writes the stream's header; the first request follows at once.
async fn begin(mut stream: MuxStream, link: &AgentLink, opening: &Opening<'_>) -> Result<MuxStream, StreamError> {
    let id = StreamId::new(format!("{:016x}", rand::random::<u64>()))?;
    let header = StreamHeader { traceparent: opening.traceparent, ..StreamHeader::kube(id) };
    let bytes = match opening.destination {
        Destination::ApiServer => header.encode_v2(),
        Destination::Service(target) => {
            let to = |kind| StreamHeader { kind, target: Some(target.clone()), ..header };
            match link.streams() {
                Some(_) => to(StreamKind::Http).encode_v2(),
                // The Service itself speaks HTTP there.
                None => to(StreamKind::Tcp).encode_v1().ok_or(StreamError::NoStreams)?,
            }
        }
    };
    stream.write_all(&bytes).await?;
    Ok(stream)
}
