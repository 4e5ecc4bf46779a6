//! From a tunnel's client to its cluster, by whatever the agent there understands.

use std::net::SocketAddr;
use std::sync::Arc;

use mux::MuxStream;
use protocol::{StreamHeader, StreamId, StreamKind, Target, Tunnel};
use tokio::io::AsyncWriteExt as _;

use crate::clusters::{AgentLink, Carrier, Cluster};
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

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    #[error("{0}")]
    NoLink(String),
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

/// Over one link after the other, until one takes it. Waits for no answer of the agent.
pub async fn open(
    cluster: &Cluster,
    kind: StreamKind,
    tunnel: &Tunnel,
    target: &Target,
    address: SocketAddr,
) -> Result<Way, Unreachable> {
    let client = Client { tunnel, target, address };
    let mut tried: Vec<Arc<AgentLink>> = Vec::new();
    let mut last = None;
    while let Some(link) = cluster.pick(&tried) {
        match over(&link, kind, &client).await {
            Ok(way) => return Ok(way),
            Err(error) => last = Some(error),
        }
        tried.push(link);
    }
    Err(last.unwrap_or_else(|| Unreachable::NoLink(cluster.why_unreachable())))
}

async fn over(link: &AgentLink, kind: StreamKind, client: &Client<'_>) -> Result<Way, Unreachable> {
    match &link.carrier {
        Carrier::Streams(_) => {
            let id = StreamId::new(format!("{:016x}", rand::random::<u64>()))?;
            Ok(Way::Stream(begin(link, &header(kind, client, id).encode_v2()).await?))
        }
        Carrier::Messages(_) if link.link.carries_streams() => {
            let id = StreamId::new(client.tunnel.tunnel_id.as_str())?;
            let header = header(kind, client, id).encode_v1().ok_or(Unreachable::NoWords)?;
            Ok(Way::OlderStream(begin(link, &header).await?))
        }
        Carrier::Messages(older) => Ok(Way::Messages(messages(older, kind, client).await?)),
    }
}

fn header(kind: StreamKind, client: &Client<'_>, id: StreamId) -> StreamHeader {
    StreamHeader { kind, target: Some(client.target.clone()), ..StreamHeader::kube(id) }
}

async fn begin(link: &AgentLink, header: &[u8]) -> Result<MuxStream, Unreachable> {
    let mut stream = link.link.open().await?;
    stream.write_all(header).await?;
    Ok(stream)
}

async fn messages(older: &OlderLink, kind: StreamKind, client: &Client<'_>) -> Result<Bridged, Unreachable> {
    match kind {
        StreamKind::Tcp => Ok(older.tcp(client).await?),
        StreamKind::Udp => Ok(older.udp(client)?),
        StreamKind::Kube | StreamKind::Http => Err(Unreachable::NoWords),
    }
}
