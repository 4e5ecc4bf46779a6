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
use crate::refusal::refuse;

/// The control plane writes the header and the first request together.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// What a stream needs to reach its service.
#[derive(Clone, Debug)]
pub struct Forwarder {
    pub bus: Bus,
    pub tracer: Tracer,
    pub metrics: Arc<Metrics>,
}

#[derive(Debug, thiserror::Error)]
enum ForwardError {
    #[error("no stream header within {}s", HEADER_TIMEOUT.as_secs())]
    HeaderTimeout,
    #[error("bad stream header: {0}")]
    Header(#[from] HeaderError),
    #[error("ended within its header")]
    Truncated,
    #[error("streams of kind {0:?} are not served")]
    Kind(StreamKind),
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The client went away, or has all it wants. Or the link is lost.
    #[error("given up by the control plane: {0}")]
    Link(#[source] io::Error),
    #[error("broken on the bus: {0}")]
    Bus(#[source] io::Error),
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
                ForwardError::Link(_) => None,
                ForwardError::Io(_) | ForwardError::Bus(_) => Some(StreamError::Copy),
                ForwardError::Kind(_) => Some(StreamError::Dial),
                _ => Some(StreamError::Header),
            };
            if let Some(kind) = kind {
                metrics.stream_failed(kind);
            }
            tracing::debug!(%error, "stream ended early");
        }
    }

    /// None: nobody took it, and the control plane was told.
    async fn connect(self, mut stream: MuxStream) -> Result<Option<Connected>, ForwardError> {
        let (header, first) =
            timeout(HEADER_TIMEOUT, read_header(&mut stream)).await.map_err(|_| ForwardError::HeaderTimeout)??;
        match header.kind {
            StreamKind::Kube => self.kube(header, stream, first).await,
            other => Err(ForwardError::Kind(other)),
        }
    }

    async fn kube(
        &self,
        header: StreamHeader,
        mut stream: MuxStream,
        first: Bytes,
    ) -> Result<Option<Connected>, ForwardError> {
        // Waiting for the request costs nothing and saves a round trip on the bus: it goes out with the open.
        let first = if first.is_empty() { stream.chunk().await?.unwrap_or_default() } else { first };
        let mut link_span = self.tracer.start("link.stream", SpanKind::Server, header.traceparent.as_ref());
        let mut bus_span = self.tracer.start("bus.stream", SpanKind::Client, link_span.context().as_ref());
        let open = OpenHeader { id: header.id.to_string(), traceparent: bus_span.context(), ..OpenHeader::default() };
        self.metrics.copied(Relayed { from_left: first.len() as u64, from_right: 0 });
        match self.bus.open(StreamKind::Kube, open, first.clone()).await {
            Ok(bus) => Ok(Some(Connected { link: stream, bus, bus_span, _link_span: link_span })),
            Err(error) => {
                self.metrics.stream_failed(StreamError::Dial);
                bus_span.fail(error.to_string());
                link_span.fail(error.to_string());
                tracing::warn!(%error, stream = %header.id, "no executor took the stream");
                refuse(stream, &error, &first).await?;
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

/// The header, and what came behind it in the same piece.
async fn read_header(stream: &mut MuxStream) -> Result<(StreamHeader, Bytes), ForwardError> {
    let mut read = BytesMut::new();
    loop {
        let chunk = stream.chunk().await?.ok_or(ForwardError::Truncated)?;
        if read.is_empty()
            && let Some((header, used)) = StreamHeader::decode(&chunk)?
        {
            return Ok((header, chunk.slice(used..)));
        }
        read.extend_from_slice(&chunk);
        if let Some((header, used)) = StreamHeader::decode(&read)? {
            return Ok((header, read.freeze().slice(used..)));
        }
    }
}
