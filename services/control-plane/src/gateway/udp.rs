use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use datagrams::{DatagramRelay, Framing, Idle, Moved};
use duplex::Duplex;
use protocol::StreamKind;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::answering::{Answering, Refused};
use super::metrics::Failure;
use super::reach::Way;
use super::{Port, Served};

/// Datagrams of one client that were not taken yet; more are dropped.
const WAITING: usize = 256;
/// What waits of one session in each direction behind that, in bytes.
const BUFFER: usize = 256 * 1024;
/// How long a client whose session failed is not tried for.
const PAUSE: Duration = Duration::from_secs(1);
/// Larger than any datagram.
const LARGEST: usize = 64 * 1024;

/// What is known of a client.
enum Session {
    Open(mpsc::Sender<Bytes>),
    /// It came to nothing just now: until then its datagrams are dropped, so that none of them costs a dial.
    Failed(Instant),
}

/// Takes datagrams until the port is closed, and its sessions with it.
pub async fn serve(socket: UdpSocket, port: Arc<Port>) {
    let socket = Arc::new(socket);
    let metrics = Arc::clone(&port.shared.metrics);
    let mut sessions: HashMap<SocketAddr, Session> = HashMap::new();
    let mut running = JoinSet::new();
    let mut buffer = vec![0; LARGEST];
    let mut swept = Instant::now();
    loop {
        let (length, client) = tokio::select! {
            // What has ended first, so that a session that begins anew finds its place.
            biased;
            Some(ended) = running.join_next() => {
                if let Ok((client, failed)) = ended {
                    // It may have been followed by another.
                    if matches!(sessions.get(&client), Some(Session::Open(sender)) if sender.is_closed()) {
                        sessions.remove(&client);
                        if failed {
                            sessions.insert(client, Session::Failed(Instant::now() + PAUSE));
                        }
                    }
                }
                continue;
            }
            received = socket.recv_from(&mut buffer) => match received {
                Ok(received) => received,
                // Of a client that is gone.
                Err(error) => {
                    tracing::debug!(tunnel = port.name, %error, "a datagram could not be received");
                    continue;
                }
            },
        };
        let datagram = Bytes::copy_from_slice(buffer.get(..length).unwrap_or_default());
        match sessions.get(&client) {
            Some(Session::Open(sender)) if !sender.is_closed() => {
                if sender.try_send(datagram).is_err() {
                    metrics.failed(Failure::Dropped);
                }
                continue;
            }
            Some(Session::Failed(until)) if Instant::now() < *until => {
                metrics.failed(Failure::Dropped);
                continue;
            }
            _ => {}
        }
        if sessions.len() >= port.shared.options.max_sessions && swept.elapsed() > PAUSE {
            swept = Instant::now();
            sessions.retain(|_, session| !matches!(session, Session::Failed(until) if *until <= swept));
        }
        if sessions.len() >= port.shared.options.max_sessions && !sessions.contains_key(&client) {
            metrics.failed(Failure::TooMany);
            continue;
        }
        let (sender, arriving) = mpsc::channel(WAITING);
        // There is room: it is new.
        let _first = sender.try_send(datagram);
        sessions.insert(client, Session::Open(sender));
        let (port, socket, served) = (Arc::clone(&port), Arc::clone(&socket), port.served());
        running.spawn(async move {
            let carried = session(Client { socket, address: client, arriving, sending: None }, &served, &port).await;
            (client, carried.is_none())
        });
    }
}

/// One client's side of a session.
struct Client {
    socket: Arc<UdpSocket>,
    address: SocketAddr,
    arriving: mpsc::Receiver<Bytes>,
    /// A datagram that found the socket's buffer full. Boxed, because that is seldom; several sessions wait for one socket.
    sending: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send>>>,
}

impl datagrams::Port for Client {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        match ready!(self.arriving.poll_recv(cx)) {
            Some(datagram) => Poll::Ready(Ok(datagram)),
            // The port is being closed, and this session with it.
            None => Poll::Pending,
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, datagram: &[u8]) -> Poll<io::Result<()>> {
        if let Some(sending) = &mut self.sending {
            let sent = ready!(sending.as_mut().poll(cx));
            self.sending = None;
            return Poll::Ready(sent);
        }
        match self.socket.try_send_to(datagram, self.address) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let (socket, address) = (Arc::clone(&self.socket), self.address);
                let datagram = Bytes::copy_from_slice(datagram);
                let sending = self.sending.insert(Box::pin(async move {
                    socket.send_to(&datagram, address).await?;
                    Ok(())
                }));
                let sent = ready!(sending.as_mut().poll(cx));
                self.sending = None;
                Poll::Ready(sent)
            }
            sent => Poll::Ready(sent.map(|_| ())),
        }
    }
}

/// None: it failed.
async fn session(client: Client, served: &Served, port: &Port) -> Option<()> {
    let metrics = &port.shared.metrics;
    let _open = metrics.session();
    let address = client.address;
    let ended = match port.open(StreamKind::Udp, served, address).await {
        Ok((Way::Stream(stream), _place)) => carry(client, Answering::new(stream), Framing::Lengths, port).await,
        Ok((Way::OlderStream(stream), _place)) => carry(client, stream, Framing::None, port).await,
        Ok((Way::Messages(stream), _place)) => carry(client, stream, Framing::Lengths, port).await,
        Err(error) => {
            metrics.failed(error.failure());
            port.complain(address, &error);
            return None;
        }
    };
    if let Err(error) = &ended {
        let refused = error.get_ref().is_some_and(|inner| inner.is::<Refused>());
        metrics.failed(if refused { Failure::Refused } else { Failure::Broken });
        port.complain(address, error);
    }
    ended.ok()
}

async fn carry<S: Duplex>(client: Client, stream: S, framing: Framing, port: &Port) -> io::Result<()> {
    let idle = Idle::new(port.shared.options.udp_idle_timeout.get());
    let mut relay = DatagramRelay::new(stream, client, framing, BUFFER);
    let report = |moved: Moved| {
        idle.moved();
        port.shared.metrics.moved(moved);
    };
    tokio::select! {
        carried = poll_fn(|cx| relay.poll(cx, &report)) => carried?,
        () = idle.too_long() => {}
    }
    poll_fn(|cx| relay.poll_shutdown(cx)).await
}
