//! One stream's way through the gateway-link, from a real link to a bus.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod harness;
mod tunnels;

use std::time::Duration;

use bus::{Bus, LocalBus, Options, Service, StreamReset};
use duplex::Duplex;
use protocol::StreamKind;
use targets::Names;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use harness::{ControlPlane, agent, eventually, soon};

/// A control plane, an agent whose tasks end with the test, and an executor's end of the bus.
async fn path(options: &Options) -> (ControlPlane, JoinSet<()>, Bus) {
    path_with(options, Names::table([])).await
}

/// The same with Services of these names.
async fn path_with(options: &Options, names: Names) -> (ControlPlane, JoinSet<()>, Bus) {
    let local = LocalBus::with(options, bus::subjects::permissions);
    let executor = local.bus(Service::ProxyExecutor);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    let mut tasks = JoinSet::new();
    tasks.spawn(agent(near.unwrap(), local.bus(Service::GatewayLink), names));
    (ControlPlane::accept(far.unwrap().0).await, tasks, executor)
}

#[tokio::test]
async fn a_request_and_its_answer_are_carried_with_their_ends() {
    let (control_plane, _agent, executor) = path(&Options::default()).await;
    let mut listener = executor.listen(StreamKind::Kube).await.unwrap();
    let mut near = control_plane.stream(b"GET / HTTP/1.1\r\n\r\n").await;
    let (header, mut far) = soon("the stream", listener.accept()).await.unwrap();
    assert_eq!(header.id, "r-1");
    near.write_all(b"and more").await.unwrap();
    near.shutdown().await.unwrap();
    let mut got = String::new();
    soon("the request", far.read_to_string(&mut got)).await.unwrap();
    assert_eq!(got, "GET / HTTP/1.1\r\n\r\nand more");
    far.write_all(b"answer").await.unwrap();
    far.shutdown().await.unwrap();
    got.clear();
    soon("the answer", near.read_to_string(&mut got)).await.unwrap();
    assert_eq!(got, "answer");
}

#[tokio::test]
async fn a_request_that_nobody_takes_is_answered() {
    let (control_plane, _agent, _executor) = path(&Options::default()).await;
    for (request, warned) in [("GET /version HTTP/1.1\r\n\r\n", true), ("GET /api/v1/pods HTTP/1.1\r\n\r\n", false)] {
        let mut near = control_plane.stream(request.as_bytes()).await;
        near.shutdown().await.unwrap();
        let mut answer = String::new();
        soon("the answer", near.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("no proxy-executor is running"), "{answer}");
        assert_eq!(answer.contains("\r\nwarning: "), warned, "{answer}");
    }
}

/// The backend reads nothing and the client goes: the executor hears of it although no byte can move.
#[tokio::test]
async fn a_stalled_upload_ends_when_its_client_goes() {
    const WINDOW: u32 = 64 * 1024;
    let (control_plane, _agent, executor) = path(&Options { stream_window: WINDOW, ..Options::default() }).await;
    let mut listener = executor.listen(StreamKind::Kube).await.unwrap();
    let near = control_plane.stream(b"PUT / HTTP/1.1\r\n\r\n").await;
    let (_, mut far) = soon("the stream", listener.accept()).await.unwrap();
    let mut uploads = JoinSet::new();
    let mut upload = near;
    uploads.spawn(async move { while upload.write_all(&[0; 16 * 1024]).await.is_ok() {} });
    // The bus takes no more, and the rest of the window of the link waits in the agent.
    eventually(Duration::from_secs(20), "the upload to stall", || {
        let (buffered, sent) = (executor.stats().buffered_bytes, control_plane.link.stats().bytes_out);
        if buffered > u64::from(WINDOW) * 3 / 4 && sent >= 256 * 1024 { Ok(()) } else { Err((buffered, sent)) }
    })
    .await;

    uploads.shutdown().await;
    let error = soon("the reset", std::future::poll_fn(|cx| far.poll_reset(cx))).await;
    let reason = error.get_ref().and_then(|inner| inner.downcast_ref::<StreamReset>()).unwrap();
    assert_eq!(&*reason.reason, "dropped by the peer");
}
