//! Connections of users and agents: accepted, encrypted, served.

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use duplex::Socket;
use exchange::{Settings, UpgradeSlot, Upgraded};
use http::Request;
use http_body_util::Either as Body;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::hello::server_name;
use crate::site::{Client, Site, Stream};
use crate::stay::{Stay, StayLimits};
use crate::tls::Acceptor;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Unanswered pings end an HTTP/2 connection, with the watches on it.
const H2_PING: Duration = Duration::from_secs(20);

/// A connection after a 101.
type UpgradedConnection<S> = (Upgraded<Socket<Stream>>, <S as Site>::Upgrade);

/// Takes connections until it is told to stop; tasks are owned by its tracker.
#[derive(Debug)]
pub struct Listener<S> {
    pub tls: Option<Arc<Acceptor>>,
    pub site: Arc<S>,
    pub max_connections: usize,
    pub stay: StayLimits,
    pub stop: CancellationToken,
    /// Ends what is left: requests at once, sessions with their last words, and then the links under them.
    pub cut: CancellationToken,
    pub tasks: TaskTracker,
}

impl<S: Site> Listener<S> {
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
            self.tasks.spawn(async move {
                let _counted = this.site.connection();
                // Boxed: a link lasts, and need not carry what requests before it took.
                let connection = Box::pin(this.connection(tcp));
                match this.cut.run_until_cancelled(connection).await {
                    Some(Ok(Some(upgraded))) => {
                        let (client, upgrade) = *upgraded;
                        Box::pin(this.site.upgraded(client, upgrade, &this.cut)).await;
                    }
                    Some(Err(error)) => tracing::debug!(%error, "connection failed"),
                    Some(Ok(None)) | None => {}
                }
                drop(place);
            });
        }
    }

    /// Serves requests to their end, or until one of them makes it something else.
    async fn connection(&self, tcp: TcpStream) -> io::Result<Option<Box<UpgradedConnection<S>>>> {
        runtime::tcp::tune(&tcp)?;
        let peer = tcp.peer_addr().ok();
        let stream = match &self.tls {
            Some(acceptor) => {
                let Some(tcp) = self.passed_through(tcp).await? else { return Ok(None) };
                // Boxed, like all that is over soon or seldom: the many plain connections then need not carry its state.
                let handshake = Box::pin(timeout(HANDSHAKE_TIMEOUT, acceptor.now().accept(tcp))).await;
                let stream = handshake.map_err(|_| io::ErrorKind::TimedOut.into()).and_then(|done| done);
                let stream = Box::new(stream.inspect_err(|error| {
                    self.site.handshake_failed();
                    if is_of_a_certificate(error) {
                        tracing::warn!(%error, client = ?peer, "a client certificate is refused (tls.client_ca_file)");
                    }
                })?);
                if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                    Box::pin(self.http2(stream, peer)).await;
                    return Ok(None);
                }
                Either::Left(stream)
            }
            None => Either::Right(tcp),
        };
        Ok(self.http1(stream, peer).await.map(Box::new))
    }

    /// What is left to be served here.
    async fn passed_through(&self, tcp: TcpStream) -> io::Result<Option<TcpStream>> {
        if !self.site.passes_through() {
            return Ok(Some(tcp));
        }
        let named = timeout(HANDSHAKE_TIMEOUT, server_name(&tcp)).await;
        let name = named.map_err(|_| io::ErrorKind::TimedOut.into()).and_then(|name| name);
        match name.inspect_err(|_| self.site.handshake_failed())? {
            Some(name) => Ok(Box::pin(self.site.pass_through(tcp, &name)).await),
            None => Ok(Some(tcp)),
        }
    }

    async fn http1(&self, stream: Stream, address: Option<SocketAddr>) -> Option<UpgradedConnection<S>> {
        let slot = UpgradeSlot::new();
        let (stay, stop) = (Stay::begin(self.stay), self.stop.child_token());
        let (tls, certified) = match &stream {
            Either::Left(tls) => (true, tls.get_ref().1.peer_certificates().is_some()),
            Either::Right(_) => (false, false),
        };
        let client = Arc::new(Client { address, tls, certified, stay: Arc::clone(&stay) });
        let service = {
            let (site, slot) = (Arc::clone(&self.site), slot.clone());
            move |request: Request<exchange::Incoming>| {
                let (site, client, slot) = (Arc::clone(&site), Arc::clone(&client), slot.clone());
                async move { site.answer(request.map(Body::Left), &client, Some(&slot)).await }
            }
        };
        let settings = Settings {
            keep_alive: true,
            max_head: S::ROOM.head as usize,
            head_timeout: Some(HEAD_TIMEOUT),
            date: true,
            refusal: S::REFUSAL,
        };
        let served = tokio::select! {
            served = exchange::serve(settings, Socket::new(stream), slot, stop.cancelled(), service) => served,
            () = Box::pin(stay.overstayed(&stop)) => return None,
        };
        served.unwrap_or_else(|error| {
            tracing::debug!(%error, "HTTP/1.1 connection failed");
            None
        })
    }

    async fn http2(&self, stream: Box<TlsStream<TcpStream>>, address: Option<SocketAddr>) {
        let (stay, stop) = (Stay::begin(self.stay), self.stop.child_token());
        let certified = stream.get_ref().1.peer_certificates().is_some();
        let client = Arc::new(Client { address, tls: true, certified, stay: Arc::clone(&stay) });
        let site = Arc::clone(&self.site);
        let service = service_fn(move |request: Request<hyper::body::Incoming>| {
            let (site, client) = (Arc::clone(&site), Arc::clone(&client));
            async move { Ok::<_, Infallible>(site.answer(request.map(Body::Right), &client, None).await) }
        });
        let mut http = http2::Builder::new(Tracked(self.tasks.clone()));
        http.timer(TokioTimer::new())
            .keep_alive_interval(H2_PING)
            .initial_stream_window_size(S::ROOM.window)
            .initial_connection_window_size(S::ROOM.windows)
            .max_header_list_size(S::ROOM.head)
            .max_send_buf_size(S::ROOM.send_buffer)
            .max_concurrent_streams(S::ROOM.streams);
        let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
        let serving = async {
            tokio::select! {
                outcome = &mut connection => outcome,
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        };
        let outcome = tokio::select! {
            outcome = serving => outcome,
            () = Box::pin(stay.overstayed(&stop)) => return,
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

/// Whether a client's certificate is what a handshake failed for.
fn is_of_a_certificate(error: &io::Error) -> bool {
    let reason = error.get_ref().and_then(|reason| reason.downcast_ref());
    matches!(reason, Some(rustls::Error::InvalidCertificate(_)))
}
