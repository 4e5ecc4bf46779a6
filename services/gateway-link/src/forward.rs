use std::io;
use std::sync::Arc;
use std::time::Duration;

use bus::{Bus, BusStream, OpenHeader};
use bytes::{Bytes, BytesMut};
use duplex::{Broken, Relayed, relay};
use mux::MuxStream;
use protocol::{HeaderError, StreamHeader, StreamKind};
use runtime::{Span, SpanKind, Tracer};
use tokio::time::timeout;

use crate::metrics::{Metrics, StreamError};
use crate::refusal::{API_SERVER, refuse};
use crate::tunnel::{CarryError, Tunnels};

/// The control plane writes the header and the first request together.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// What a stream needs to reach its service.
#[derive(Clone, Debug)]
pub struct Forwarder {
    pub bus: Bus,
    pub tracer: Tracer,
    pub metrics: Arc<Metrics>,
    pub tunnels: Tunnels,
}

#[derive(Debug, thiserror::Error)]
enum ForwardError {
    #[error("no stream header within {}s", HEADER_TIMEOUT.as_secs())]
    HeaderTimeout,
    #[error("bad stream header: {0}")]
    Header(#[from] HeaderError),
    #[error("ended within its header")]
    Truncated,
    #[error("the stream's header names no Service")]
    NoTarget,
    #[error(transparent)]
    Tunnel(#[from] CarryError),
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The client went away, or has all it wants. Or the link is lost.
    #[error("given up by the control plane: {0}")]
    Link(#[source] io::Error),
    #[error("broken on the bus: {0}")]
    Bus(#[source] io::Error),
}

/// A stream whose header was read.
#[derive(Debug)]
struct Opened {
    header: StreamHeader,
    stream: MuxStream,
    /// What came with the header.
    first: Bytes,
    /// The header has version 2.
    answers: bool,
}

/// Both halves of a stream's way, and the spans that end with it.
struct Connected {
    link: MuxStream,
    bus: BusStream,
    bus_span: Span,
    _link_span: Span,
}

impl Forwarder {
    /// Carries one stream from the control plane to its end. Never fails towards the link: an error ends this stream
    /// only, visibly for the other side.
    pub async fn forward(self, stream: MuxStream) {
        let metrics = self.metrics.clone();
        let _open = metrics.stream_opened();
        // Boxed, so that its state is gone while the stream lives on: most are idle for most of their time.
        let outcome = match Box::pin(self.connect(stream)).await {
            Ok(Some(connected)) => carry(connected, &metrics).await,
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            let kind = match &error {
                // Whoever goes early is no failure.
                ForwardError::Link(_) | ForwardError::Tunnel(CarryError::Link(_)) => None,
                ForwardError::Io(_) | ForwardError::Bus(_) => Some(StreamError::Copy),
                ForwardError::Tunnel(CarryError::Tunnel { .. }) => Some(StreamError::Dial),
                ForwardError::Tunnel(_) => Some(StreamError::Copy),
                _ => Some(StreamError::Header),
            };
            if let Some(kind) = kind {
                metrics.stream_failed(kind);
            }
            tracing::debug!(error = runtime::error_text(&error), "stream ended early");
        }
    }

    /// None: it is over. Either nobody took it and the control plane was told, or it was a tunnel.
    async fn connect(self, mut stream: MuxStream) -> Result<Option<Connected>, ForwardError> {
        let (header, first, answers) =
            timeout(HEADER_TIMEOUT, read_header(&mut stream)).await.map_err(|_| ForwardError::HeaderTimeout)??;
        let target = header.target.clone();
        let opened = Opened { header, stream, first, answers };
        match (opened.header.kind, target) {
            (StreamKind::Kube, _) => self.request(opened, None).await,
            (_, None) => Err(ForwardError::NoTarget),
            (StreamKind::Http, Some(target)) => self.request(opened, Some(target.to_string())).await,
            (StreamKind::Tcp | StreamKind::Udp, Some(target)) => {
                let Opened { header, stream, first, answers } = opened;
                let mut span = self.tracer.start("link.tunnel", SpanKind::Server, header.traceparent.as_ref());
                let report = |carried| self.metrics.copied(carried);
                let carried = self.tunnels.carry(&header, target, stream, first, answers, report).await;
                if let Err(error) = &carried {
                    span.fail(error.to_string());
                }
                Ok(carried.map(|()| None)?)
            }
        }
    }

    /// A stream of requests, for the API server or for the Service that `target` names.
    async fn request(&self, opened: Opened, target: Option<String>) -> Result<Option<Connected>, ForwardError> {
        let Opened { header, mut stream, first, .. } = opened;
        // Waiting for the request costs nothing and saves a round trip on the bus: it goes out with the open.
        let first = if first.is_empty() { stream.chunk().await?.unwrap_or_default() } else { first };
        let mut link_span = self.tracer.start("link.stream", SpanKind::Server, header.traceparent.as_ref());
        let mut bus_span = self.tracer.start("bus.stream", SpanKind::Client, link_span.context().as_ref());
        let open = OpenHeader { id: header.id.to_string(), target, traceparent: bus_span.context() };
        self.metrics.copied(Relayed { from_left: first.len() as u64, from_right: 0 });
        let to = open.target.as_ref().map_or_else(|| API_SERVER.to_owned(), |target| format!("Service {target}"));
        match self.bus.open(header.kind, open, first.clone()).await {
            Ok(bus) => Ok(Some(Connected { link: stream, bus, bus_span, _link_span: link_span })),
            Err(error) => {
                self.metrics.stream_failed(StreamError::Dial);
                bus_span.fail(error.to_string());
                link_span.fail(error.to_string());
                tracing::warn!(%error, stream = %header.id, "no executor took the stream");
                refuse(stream, &to, &error, &first).await?;
                Ok(None)
            }
        }
    }
}

async fn carry(connected: Connected, metrics: &Metrics) -> Result<(), ForwardError> {
    let Connected { link, bus, mut bus_span, _link_span } = connected;
    relay(link, bus, |carried| metrics.copied(carried)).await.map_err(|broken| match broken {
        Broken::Left(error) => ForwardError::Link(error),
        Broken::Right(error) => {
            bus_span.fail(format!("broken on the bus: {error}"));
            ForwardError::Bus(error)
        }
    })
}

/// The header, what came behind it in the same piece, and whether its version is 2.
async fn read_header(stream: &mut MuxStream) -> Result<(StreamHeader, Bytes, bool), ForwardError> {
    let mut read = BytesMut::new();
    loop {
        let chunk = stream.chunk().await?.ok_or(ForwardError::Truncated)?;
        if read.is_empty()
            && let Some((header, used)) = StreamHeader::decode(&chunk)?
        {
            return Ok((header, chunk.slice(used..), chunk.first() == Some(&2)));
        }
        read.extend_from_slice(&chunk);
        if let Some((header, used)) = StreamHeader::decode(&read)? {
            let answers = read.first() == Some(&2);
            return Ok((header, read.freeze().slice(used..), answers));
        }
    }
}
