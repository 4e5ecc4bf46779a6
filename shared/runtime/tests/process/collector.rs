//! A collector of OTLP over HTTP that keeps what it gets.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    time::Instant,
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    trace::v1::{ResourceSpans, Span},
};
use prost::Message as _;

use crate::driver::PATIENCE;

pub struct Collector {
    pub endpoint: String,
    received: Arc<(Mutex<Vec<ResourceSpans>>, Condvar)>,
}

impl Collector {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let received = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let filled = Arc::clone(&received);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                while let Some(spans) = receive(&stream) {
                    filled.0.lock().unwrap().extend(spans);
                    filled.1.notify_all();
                }
            }
        });
        Self { endpoint, received }
    }

    /// All resources received, once they hold `count` spans.
    pub fn wait_spans(&self, count: usize) -> Vec<ResourceSpans> {
        let end = Instant::now() + PATIENCE;
        let mut received = self.received.0.lock().unwrap();
        while received.iter().map(|resource| spans(resource).count()).sum::<usize>() < count {
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited for {count} spans; there was: {received:#?}");
            received = self.received.1.wait_timeout(received, left).unwrap().0;
        }
        received.clone()
    }

    pub fn is_empty(&self) -> bool {
        self.received.0.lock().unwrap().is_empty()
    }
}

pub fn spans(resource: &ResourceSpans) -> impl Iterator<Item = &Span> {
    resource.scope_spans.iter().flat_map(|scope| &scope.spans)
}

/// One request of a kept connection; none at its end.
fn receive(stream: &TcpStream) -> Option<Vec<ResourceSpans>> {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        head.push(line.trim().to_ascii_lowercase());
    }
    assert_eq!(head[0], "post /v1/traces http/1.1");
    assert!(head.contains(&"content-type: application/x-protobuf".to_owned()), "{head:?}");
    let length = head.iter().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let mut stream = stream;
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
    Some(ExportTraceServiceRequest::decode(body.as_slice()).unwrap().resource_spans)
}
