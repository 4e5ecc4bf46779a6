use std::io;
use std::sync::Arc;
use std::time::Duration;

use bus::{Bus, OpenError, OpenHeader};
use bytes::{Bytes, BytesMut};
use mux::MuxStream;
use protocol::status::shows_no_status;
use protocol::{HeaderError, Status, StreamHeader, StreamKind};
use runtime::{SpanKind, Tracer};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::metrics::{Metrics, StreamError};
use crate::pump::{Broken, Pumped, pump};

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
    #[error(transparent)]
    Broken(#[from] Broken),
}

impl Forwarder {
    /// Carries one stream from the control plane to its end. Never fails towards the link: an error ends this stream
    /// only, visibly for the other side.
    pub async fn forward(self, stream: MuxStream) {
        let _open = self.metrics.stream_opened();
        if let Err(error) = self.run(stream).await {
            let kind = match &error {
                // Whoever goes early is no failure.
                ForwardError::Broken(Broken::Link(_)) => None,
                ForwardError::Io(_) | ForwardError::Broken(Broken::Bus(_)) => Some(StreamError::Copy),
                ForwardError::Kind(_) => Some(StreamError::Dial),
                _ => Some(StreamError::Header),
            };
            if let Some(kind) = kind {
                self.metrics.stream_failed(kind);
            }
            tracing::debug!(%error, "stream ended early");
        }
    }

    async fn run(&self, mut stream: MuxStream) -> Result<(), ForwardError> {
        let (header, first) =
            timeout(HEADER_TIMEOUT, read_header(&mut stream)).await.map_err(|_| ForwardError::HeaderTimeout)??;
        match header.kind {
            StreamKind::Kube => self.kube(header, stream, first).await,
            other => Err(ForwardError::Kind(other)),
        }
    }

    async fn kube(&self, header: StreamHeader, mut stream: MuxStream, first: Bytes) -> Result<(), ForwardError> {
        // Waiting for the request costs nothing and saves a round trip on the bus: it goes out with the open.
        let first = if first.is_empty() { next_chunk(&mut stream).await?.unwrap_or_default() } else { first };
        let mut link_span = self.tracer.start("link.stream", SpanKind::Server, header.traceparent.as_ref());
        let mut bus_span = self.tracer.start("bus.stream", SpanKind::Client, link_span.context().as_ref());
        let open = OpenHeader { id: header.id.to_string(), traceparent: bus_span.context(), ..OpenHeader::default() };
        let unread = asks_what_shows_no_status(&first);
        self.metrics.copied(Pumped { up: first.len() as u64, down: 0 });
        let bus = match self.bus.open(StreamKind::Kube, open, first).await {
            Ok(bus) => bus,
            Err(error) => {
                self.metrics.stream_failed(StreamError::Dial);
                bus_span.fail(error.to_string());
                link_span.fail(error.to_string());
                tracing::warn!(%error, stream = %header.id, "no executor took the stream");
                return refuse(stream, &error, unread).await.map_err(ForwardError::Io);
            }
        };
        let outcome = pump(stream, bus, |pumped| self.metrics.copied(pumped)).await;
        if let Err(error @ Broken::Bus(_)) = &outcome {
            bus_span.fail(error.to_string());
        }
        Ok(outcome?)
    }
}

async fn next_chunk(stream: &mut MuxStream) -> io::Result<Option<Bytes>> {
    std::future::poll_fn(|cx| stream.poll_chunk(cx)).await
}

/// The header, and what came behind it in the same piece.
async fn read_header(stream: &mut MuxStream) -> Result<(StreamHeader, Bytes), ForwardError> {
    let mut read = BytesMut::new();
    loop {
        let chunk = next_chunk(stream).await?.ok_or(ForwardError::Truncated)?;
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

/// Whether the request that begins like this is one whose answer is better given as a warning.
fn asks_what_shows_no_status(first: &[u8]) -> bool {
    let path = first.strip_prefix(b"GET ").and_then(|rest| rest.split(|byte| matches!(byte, b' ' | b'?')).next());
    path.and_then(|path| std::str::from_utf8(path).ok()).is_some_and(shows_no_status)
}

/// Answers the request that waits on the stream: this hop speaks no HTTP, but a refusal must reach the user as a
/// `Status`, not as a bare close. `unread`: the client shows nobody the body.
async fn refuse(mut stream: MuxStream, error: &OpenError, unread: bool) -> io::Result<()> {
    let reason = match error {
        OpenError::NoInstance => "no proxy-executor is running in the cluster".to_owned(),
        other => other.to_string(),
    };
    let status = Status::unavailable(format!("the request did not reach the cluster's API server: {reason}"));
    let body = status.to_json();
    let mut head = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: {}\r\ncontent-length: {}\r\nconnection: close\r\n",
        protocol::status::CONTENT_TYPE,
        body.len()
    )
    .into_bytes();
    if let Some(warning) = status.to_warning().filter(|_| unread) {
        head.extend_from_slice(b"warning: ");
        head.extend_from_slice(warning.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    stream.write_all(&head).await?;
    stream.write_all(&body).await?;
    stream.shutdown().await?;
    // The rest of the request is read and dropped, so that the answer is not overtaken by a reset.
    let drained = timeout(HEADER_TIMEOUT, async {
        while next_chunk(&mut stream).await?.is_some() {}
        Ok(())
    })
    .await;
    drained.unwrap_or(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::asks_what_shows_no_status;

    #[test]
    fn questions_about_the_api_itself_are_known_by_their_first_bytes() {
        for first in ["GET /version HTTP/1.1\r\n", "GET /api?timeout=32s HTTP/1.1\r\n", "GET /apis HTTP/1.1"] {
            assert!(asks_what_shows_no_status(first.as_bytes()), "{first}");
        }
        for first in ["GET /api/v1 HTTP/1.1", "POST /api HTTP/1.1", "GET", "", "GET \u{ff} "] {
            assert!(!asks_what_shows_no_status(first.as_bytes()), "{first}");
        }
    }
}
