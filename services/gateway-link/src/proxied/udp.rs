//! Sessions of UDP tunnels that are messages: a socket for each client, so that each gets its own answers only.

use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use datagrams::{DatagramQueue, Idle, poll_recv};
use mux::{Closed, Link};
use protocol::Target;
use protocol::message::proxied::{Base64, ProxyReply, UdpTunnelData};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::tcp::FROM_AGENT;
use crate::metrics::TunnelFailure;
use crate::tunnel::Tunnels;

/// From a failed attempt to the next, which its client's next datagram is.
const PAUSE: Duration = Duration::from_secs(1);

/// Whose session it is, and with whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Session {
    pub tunnel_id: String,
    pub client_addr: String,
    pub client_port: u16,
    pub target: Target,
}

/// A datagram on its way to the link, which may be full.
type Sending = Pin<Box<dyn Future<Output = Result<(), Closed>> + Send>>;

/// Datagrams from the client that were not sent on yet.
#[derive(Debug)]
pub struct Arrived {
    queue: Mutex<DatagramQueue>,
    more: Notify,
}

impl Arrived {
    pub fn new(limit: usize) -> Self {
        Self { queue: Mutex::new(DatagramQueue::new(limit)), more: Notify::new() }
    }

    /// How many older ones were dropped for it.
    pub fn push(&self, datagram: Bytes) -> usize {
        let dropped = self.lock().push(datagram);
        self.more.notify_one();
        dropped
    }

    async fn next(&self) -> Bytes {
        loop {
            if let Some(datagram) = self.lock().pop() {
                return datagram;
            }
            self.more.notified().await;
        }
    }

    /// How many are left.
    pub fn clear(&self) -> usize {
        let mut queue = self.lock();
        std::iter::from_fn(|| queue.pop()).count()
    }

    fn lock(&self) -> MutexGuard<'_, DatagramQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    fn reply(&self, datagram: Bytes) -> String {
        ProxyReply::UdpData(Box::new(UdpTunnelData {
            tunnel_id: self.tunnel_id.clone(),
            data: Base64(datagram),
            client_addr: self.client_addr.clone(),
            client_port: self.client_port,
            direction: Some(FROM_AGENT.to_owned()),
            ..UdpTunnelData::default()
        }))
        .encode(None)
    }

    /// Carries datagrams until the link is gone or nothing has moved for too long. There are no words for a session that
    /// fails: that is logged here, and what comes for it then is dropped for a moment.
    pub async fn run(self, tunnels: &Tunnels, arrived: &Arrived, link: Link) {
        let tunnel = match tunnels.connect_udp(&self.target).await {
            Ok(tunnel) => tunnel,
            Err(error) => {
                let error = runtime::error_text(&error);
                tracing::warn!(error, target = %self.target, tunnel = self.tunnel_id, "no UDP session");
                let dropping = async {
                    loop {
                        arrived.next().await;
                        tunnels.udp_failed(TunnelFailure::Dropped);
                    }
                };
                // It never ends before.
                let _over: Result<(), _> = timeout(PAUSE, dropping).await;
                return;
            }
        };
        let options = &tunnels.options.udp;
        let idle = Idle::new(tunnel.idle_timeout);
        let mut to_client = DatagramQueue::new(options.buffer_size);
        let mut sending: Option<Sending> = None;
        loop {
            if sending.is_none()
                && let Some(datagram) = to_client.pop()
            {
                let (link, text) = (link.clone(), self.reply(datagram));
                sending = Some(Box::pin(async move { link.send_bulk(text).await }));
            }
            tokio::select! {
                datagram = arrived.next() => {
                    idle.moved();
                    match tunnel.socket.send(&datagram).await {
                        Ok(_) => tunnel.open.incoming(1),
                        Err(_) => tunnel.open.failed(TunnelFailure::Copy),
                    }
                }
                received = std::future::poll_fn(|cx| poll_recv(&tunnel.socket, cx)) => match received {
                    Ok(datagram) => {
                        idle.moved();
                        tunnel.open.outgoing(1);
                        for _ in 0..to_client.push(datagram) {
                            tunnel.open.failed(TunnelFailure::Dropped);
                        }
                    }
                    // Such as "connection refused", from a port where nobody listens at the moment.
                    Err(_) => tunnel.open.failed(TunnelFailure::Copy),
                },
                sent = sent(&mut sending) => {
                    if sent.is_err() {
                        return;
                    }
                    sending = None;
                }
                () = idle.too_long() => return,
            }
        }
    }
}

async fn sent(sending: &mut Option<Sending>) -> Result<(), Closed> {
    match sending {
        Some(sending) => sending.await,
        None => std::future::pending().await,
    }
}
