//! From a tunnel's client to its cluster, by whatever the agent there understands.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures::future::select_ok;
use mux::MuxStream;
use protocol::{StreamHeader, StreamId, StreamKind, Target, Tunnel};
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use super::metrics::Failure;
use crate::clusters::{AgentLink, Carrier, Cluster};
use crate::dispatch::OPENING;
use crate::older::{Bridged, Client, NoTunnel, OlderLink};

/// What a client's bytes or datagrams go over.
#[derive(Debug)]
pub enum Way {
    /// The agent answers first whether there is a connection.
    Stream(MuxStream),
    /// A stream of the published protocol: no answer, and datagrams without lengths.
    OlderStream(MuxStream),
    Messages(Bridged),
}

impl Way {
    /// Sends what comes before anything of the client.
    pub async fn begin_with(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stream(stream) | Self::OlderStream(stream) => stream.write_all(bytes).await,
            Self::Messages(bridged) => bridged.write_all(bytes).await,
        }
    }
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    #[error("{0}")]
    NoLink(String),
    #[error("as many clients are there as may be ({0})")]
    TooMany(&'static str),
    #[error("the cluster's agent has not taken the streams before this one for {}s", OPENING.as_secs())]
    Busy,
    #[error("cannot open a stream to the cluster")]
    Open(#[from] mux::OpenError),
    #[error("the stream to the cluster broke")]
    Header(#[from] std::io::Error),
    #[error("the cluster's agent takes no more")]
    Older(#[from] NoTunnel),
    #[error("the tunnel's id cannot be sent")]
    Id(#[from] protocol::InvalidId),
    #[error("the older protocol has no words for this tunnel")]
    NoWords,
}

impl Unreachable {
    pub fn failure(&self) -> Failure {
        match self {
            Self::TooMany(_) => Failure::TooMany,
            _ => Failure::Unreachable,
        }
    }
}

/// Over the first link that takes it; where all are busy, over the first that is not any more. Waits for no answer of the
/// agent.
pub async fn open(
    cluster: &Cluster,
    kind: StreamKind,
    tunnel: &Tunnel,
    target: &Target,
    address: SocketAddr,
) -> Result<Way, Unreachable> {
    let client = Client { tunnel, target, address };
    let (mut tried, mut busy) = (Vec::<Arc<AgentLink>>::new(), Vec::new());
    let mut last = None;
    while let Some(link) = cluster.pick(&tried) {
        let opened = match &link.carrier {
            Carrier::Messages(older) if !link.link.carries_streams() => {
                messages(older, kind, &client).await.map(|bridged| Some(Way::Messages(bridged)))
            }
            _ => match link.link.try_open() {
                Ok(Some(stream)) => begin(&link, stream, kind, &client).await.map(Some),
                Ok(None) => Ok(None),
                Err(error) => Err(error.into()),
            },
        };
        match opened {
            Ok(Some(way)) => return Ok(way),
            Ok(None) => busy.push(Arc::clone(&link)),
            Err(error) => last = Some(error),
        }
        tried.push(link);
    }
    if busy.is_empty() {
        return Err(last.unwrap_or_else(|| Unreachable::NoLink(cluster.why_unreachable())));
    }
    let opening = busy.iter().map(|link| Box::pin(async move { Ok((link, link.link.open().await?)) }));
    let opened: Result<((_, MuxStream), _), Unreachable> =
        timeout(OPENING, select_ok(opening)).await.map_err(|_| Unreachable::Busy)?;
    let ((link, stream), _others) = opened?;
    begin(link, stream, kind, &client).await
}

/// The stream's header, in the version that the agent knows.
async fn begin(
    link: &AgentLink,
    mut stream: MuxStream,
    kind: StreamKind,
    client: &Client<'_>,
) -> Result<Way, Unreachable> {
    if let Carrier::Streams(_) = &link.carrier {
        let id = StreamId::new(format!("{:016x}", rand::random::<u64>()))?;
        stream.write_all(&header(kind, client, id).encode_v2()).await?;
        return Ok(Way::Stream(stream));
    }
    let id = StreamId::new(client.tunnel.tunnel_id.as_str())?;
    let header = header(kind, client, id).encode_v1().ok_or(Unreachable::NoWords)?;
    stream.write_all(&header).await?;
    Ok(Way::OlderStream(stream))
}

fn header(kind: StreamKind, client: &Client<'_>, id: StreamId) -> StreamHeader {
    StreamHeader { kind, target: Some(client.target.clone()), ..StreamHeader::kube(id) }
}

async fn messages(older: &OlderLink, kind: StreamKind, client: &Client<'_>) -> Result<Bridged, Unreachable> {
    match kind {
        StreamKind::Tcp => Ok(older.tcp(client).await?),
        StreamKind::Udp => Ok(older.udp(client)?),
        StreamKind::Kube | StreamKind::Http => Err(Unreachable::NoWords),
    }
}
