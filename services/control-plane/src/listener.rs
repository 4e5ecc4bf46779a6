//! Connections of users and agents: accepted, encrypted, served.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use exchange::UpgradeSlot;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agent::Agents;
use crate::metrics::Metrics;
use crate::route::{Router, Upgrade};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Unanswered pings end an HTTP/2 connection, with the watches on it.
const H2_PING: Duration = Duration::from_secs(20);
const H2_WINDOW: u32 = 1 << 20;
const H2_SEND_BUFFER: usize = 128 * 1024;
const H2_STREAMS: u32 = 1024;

type Stream = Either<TlsStream<TcpStream>, TcpStream>;

/// Takes connections until it is told to stop; tasks are owned by its tracker.
#[derive(Debug)]
pub struct Listener {
    pub tls: Option<TlsAcceptorHandle>,
    pub router: Arc<Router>,
    pub agents: Arc<Agents>,
    pub metrics: Arc<Metrics>,
    pub max_connections: usize,
    pub stop: CancellationToken,
    /// Ends what is left, at once.
    pub cut: CancellationToken,
    pub tasks: TaskTracker,
}

/// The acceptor, printable.
#[derive(Clone)]
pub struct TlsAcceptorHandle(pub TlsAcceptor);

impl std::fmt::Debug for TlsAcceptorHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsAcceptor")
    }
}

impl Listener {
    /// Returns when stopped; open connections go on in the tracker.
    pub async fn run(self: Arc<Self>, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(self.max_connections));
        loop {
            let accepted = async {
                let place = Arc::clone(&places).acquire_owned().await.map_err(io::Error::other)?;
                Ok::<_, io::Error>((place, listener.accept().await?.0))
            };
            let (place, tcp) = tokio::select! {
                accepted = accepted => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // Mostly too many open files: those that are open have to end first.
                        tracing::warn!(%error, "cannot accept a connection");
                        sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
                () = self.stop.cancelled() => return,
            };
            let this = Arc::clone(&self);
            let cut = self.cut.clone();
            self.tasks.spawn(cut.run_until_cancelled_owned(async move {
                let _counted = this.metrics.connection();
                if let Err(error) = this.connection(tcp).await {
                    tracing::debug!(%error, "connection failed");
                }
                drop(place);
            }));
        }
    }

    async fn connection(&self, tcp: TcpStream) -> io::Result<()> {
        tcp.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(15))
            .with_interval(Duration::from_secs(5))
            .with_retries(3);
        SockRef::from(&tcp).set_tcp_keepalive(&keepalive)?;
        let Some(TlsAcceptorHandle(acceptor)) = &self.tls else {
            self.http1(Either::Right(tcp)).await;
            return Ok(());
        };
        let handshake = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(tcp)).await;
        let stream = handshake.map_err(|_| io::ErrorKind::TimedOut.into()).and_then(|done| done).inspect_err(|_| {
            self.metrics.failed_handshakes.fetch_add(1, Relaxed);
        })?;
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            // Boxed, like what follows an upgrade below: the many plain connections then need not carry its state.
            Box::pin(self.http2(stream)).await;
        } else {
            self.http1(Either::Left(stream)).await;
        }
        Ok(())
    }

    async fn http1(&self, stream: Stream) {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
        let slot = UpgradeSlot::new();
        let service = {
            let (router, slot) = (Arc::clone(&self.router), slot.clone());
            move |request| {
                let (router, slot) = (Arc::clone(&router), slot.clone());
                async move { router.route(request, Some(&slot)).await }
            }
        };
        match exchange::serve(&http, stream, slot, self.stop.cancelled(), service).await {
            Ok(Some((client, Upgrade::Session(cluster)))) => {
                if let Err(error) = Box::pin(exchange::relay(client, cluster)).await {
                    tracing::debug!(%error, "session broke");
                }
            }
            Ok(Some((client, Upgrade::Agent(token)))) => {
                let config = Some(self.agents.config().websocket());
                let socket =
                    WebSocketStream::from_partially_read(client.io, client.read_buf.into(), Role::Server, config).await;
                Box::pin(self.agents.serve(socket, &token)).await;
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "HTTP/1.1 connection failed"),
        }
    }

    async fn http2(&self, stream: TlsStream<TcpStream>) {
        let router = Arc::clone(&self.router);
        let service = service_fn(move |request| {
            let router = Arc::clone(&router);
            async move { Ok::<_, std::convert::Infallible>(router.route(request, None).await) }
        });
        let mut http = http2::Builder::new(Tracked(self.tasks.clone()));
        http.timer(TokioTimer::new())
            .keep_alive_interval(H2_PING)
            .initial_stream_window_size(H2_WINDOW)
            .initial_connection_window_size(4 * H2_WINDOW)
            .max_send_buf_size(H2_SEND_BUFFER)
            .max_concurrent_streams(H2_STREAMS);
        let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
        let outcome = tokio::select! {
            outcome = &mut connection => outcome,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "HTTP/2 connection failed");
        }
    }
}

/// Runs a connection's streams as tasks of the tracker.
#[derive(Clone, Debug)]
struct Tracked(TaskTracker);

impl<F> Executor<F> for Tracked
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}
