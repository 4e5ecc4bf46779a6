use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use datagrams::{DatagramRelay, Framing, Idle, Moved};
use duplex::Duplex;
use protocol::StreamKind;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::answering::{Answering, Refused};
use super::metrics::Failure;
use super::reach::Way;
use super::{Port, Served};

/// Datagrams of one client that were not taken yet; more are dropped.
const WAITING: usize = 256;
/// What waits of one session in each direction behind that, in bytes.
const BUFFER: usize = 256 * 1024;
/// Larger than any datagram.
const LARGEST: usize = 64 * 1024;

/// Takes datagrams until the port is closed, and its sessions with it.
pub async fn serve(socket: UdpSocket, port: Arc<Port>) {
    let socket = Arc::new(socket);
    let mut sessions: HashMap<SocketAddr, mpsc::Sender<Bytes>> = HashMap::new();
    let mut running = JoinSet::new();
    let mut buffer = vec![0; LARGEST];
    loop {
        let (length, client) = tokio::select! {
            received = socket.recv_from(&mut buffer) => match received {
                Ok(received) => received,
                // Of a client that is gone.
                Err(error) => {
                    tracing::debug!(tunnel = port.name, %error, "a datagram could not be received");
                    continue;
                }
            },
            Some(ended) = running.join_next() => {
                if let Ok(client) = ended {
                    sessions.remove(&client);
                }
                continue;
            }
        };
        let datagram = Bytes::copy_from_slice(buffer.get(..length).unwrap_or_default());
        let session = match sessions.get(&client).filter(|session| !session.is_closed()) {
            Some(session) => session,
            None if sessions.len() >= port.shared.options.max_sessions => {
                port.shared.metrics.failed(Failure::TooMany);
                continue;
            }
            None => {
                let (sender, arriving) = mpsc::channel(WAITING);
                let (port, socket, served) = (Arc::clone(&port), Arc::clone(&socket), port.served());
                running.spawn(async move {
                    session(Client { socket, address: client, arriving, sending: None }, &served, &port).await;
                    client
                });
                sessions.entry(client).insert_entry(sender).into_mut()
            }
        };
        if session.try_send(datagram).is_err() {
            port.shared.metrics.failed(Failure::Dropped);
        }
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

async fn session(client: Client, served: &Served, port: &Port) {
    let metrics = &port.shared.metrics;
    let _open = metrics.session();
    let address = client.address;
    let ended = match port.open(StreamKind::Udp, served, address).await {
        Ok((Way::Stream(stream), _place)) => carry(client, Answering::new(stream), Framing::Lengths, port).await,
        Ok((Way::OlderStream(stream), _place)) => carry(client, stream, Framing::None, port).await,
        Ok((Way::Messages(stream), _place)) => carry(client, stream, Framing::Lengths, port).await,
        Err(error) => {
            metrics.failed(Failure::Unreachable);
            port.complain(address, &error);
            return;
        }
    };
    if let Err(error) = ended {
        let refused = error.get_ref().is_some_and(|inner| inner.is::<Refused>());
        metrics.failed(if refused { Failure::Refused } else { Failure::Broken });
        port.complain(address, &error);
    }
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
