//! As much of an API server as these tests need: it says what it was asked, and counts it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

#[derive(Debug, Default)]
struct Shared {
    may_list_nodes: AtomicBool,
    proxied: AtomicUsize,
}

pub struct Api {
    address: std::net::SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Api {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, shared) = (listener.local_addr().unwrap(), Arc::<Shared>::default());
        let task = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move {
                let mut connections = JoinSet::new();
                while let Ok((tcp, _)) = listener.accept().await {
                    connections.spawn(answer(tcp, Arc::clone(&shared)));
                }
            }
        });
        Self { address, shared, task }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn may_list_nodes(&self, may: bool) {
        self.shared.may_list_nodes.store(may, Relaxed);
    }

    /// How many requests were somebody's.
    pub fn requests(&self) -> usize {
        self.shared.proxied.load(Relaxed)
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(mut tcp: TcpStream, shared: Arc<Shared>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = tcp.read_u8().await else { return };
        head.push(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let counted = head.contains("as=PartialObjectMetadataList");
    let (status, body) = match head.split(' ').nth(1).unwrap_or_default() {
        "/version" if counted => ("200 OK", r#"{"gitVersion":"v1.36.3"}"#.to_owned()),
        "/api/v1/nodes?limit=1" if counted && shared.may_list_nodes.load(Relaxed) => {
            ("200 OK", r#"{"metadata":{"continue":"x","remainingItemCount":2},"items":[{}]}"#.to_owned())
        }
        "/api/v1/nodes?limit=1" if counted => ("403 Forbidden", "{}".to_owned()),
        "/api/v1/pods?limit=1" if counted => ("200 OK", r#"{"metadata":{},"items":[{}]}"#.to_owned()),
        "/readyz" => ("200 OK", "ok".to_owned()),
        _ => {
            shared.proxied.fetch_add(1, Relaxed);
            ("200 OK", head)
        }
    };
    let length = body.len();
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
    let _ = tcp.write_all(answer.as_bytes()).await;
}
