//! An OpenTelemetry collector that keeps the spans it is sent: by HTTP, as our services do it, or by gRPC, as Kubernetes does.

mod grpc;

use crate::wire::{Framing, Wire};
use anyhow::Result;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// What a test needs to know of a span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub service: String,
    pub name: String,
    pub trace: String,
    pub id: String,
    pub parent: String,
    pub failed: bool,
    pub start_ns: u64,
    pub end_ns: u64,
    /// Trace and span id of each span it names beside its parent.
    pub links: Vec<(String, String)>,
}

#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    grpc: SocketAddr,
    spans: Arc<Mutex<Vec<Span>>>,
    _accepting: JoinSet<()>,
}

impl Collector {
    /// # Errors
    /// When there is no port to be had.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let spans = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&spans);
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let kept = Arc::clone(&kept);
                connections.spawn(async move {
                    if let Err(error) = serve(tcp, &kept).await {
                        // Shows in the test's output; the missing spans fail it.
                        eprintln!("collector: {error:#}");
                    }
                });
            }
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let grpc = listener.local_addr()?;
        let kept = Arc::clone(&spans);
        accepting.spawn(grpc::accept(listener, move |request| keep(&kept, &request)));
        Ok(Self { address, grpc, spans, _accepting: accepting })
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where gRPC is spoken.
    #[must_use]
    pub fn grpc(&self) -> SocketAddr {
        self.grpc
    }

    /// The spans of a trace so far.
    #[must_use]
    pub fn trace(&self, trace: &str) -> Vec<Span> {
        self.spans(|span| span.trace == trace)
    }

    /// The spans so far that name this one beside their parent.
    #[must_use]
    pub fn linked_to(&self, trace: &str, id: &str) -> Vec<Span> {
        self.spans(|span| span.links.iter().any(|link| link.0 == trace && link.1 == id))
    }

    fn spans(&self, wanted: impl Fn(&Span) -> bool) -> Vec<Span> {
        let spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        spans.iter().filter(|span| wanted(span)).cloned().collect()
    }
}

async fn serve(tcp: TcpStream, kept: &Mutex<Vec<Span>>) -> Result<()> {
    let mut wire = Wire::new(tcp);
    while let Some(head) = wire.head().await? {
        let (body, _) = wire.body(head.framing(Framing::Length(0))).await?;
        let request = ExportTraceServiceRequest::decode(body.as_slice())?;
        keep(kept, &request);
        wire.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n").await?;
    }
    Ok(())
}

fn keep(kept: &Mutex<Vec<Span>>, request: &ExportTraceServiceRequest) {
    kept.lock().unwrap_or_else(PoisonError::into_inner).extend(spans(request));
}

fn spans(request: &ExportTraceServiceRequest) -> Vec<Span> {
    let mut spans = Vec::new();
    for resource in &request.resource_spans {
        let attributes = resource.resource.iter().flat_map(|resource| &resource.attributes);
        let service = attributes.filter(|pair| pair.key == "service.name").find_map(|pair| {
            use opentelemetry_proto::tonic::common::v1::any_value::Value;
            match pair.value.as_ref()?.value.as_ref()? {
                Value::StringValue(name) => Some(name.clone()),
                _ => None,
            }
        });
        for span in resource.scope_spans.iter().flat_map(|scope| &scope.spans) {
            spans.push(Span {
                service: service.clone().unwrap_or_default(),
                name: span.name.clone(),
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                failed: span.status.as_ref().is_some_and(|status| status.code == 2),
                start_ns: span.start_time_unix_nano,
                end_ns: span.end_time_unix_nano,
                links: span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
            });
        }
    }
    spans
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
