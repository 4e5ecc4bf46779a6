//! A TCP tunnel that is messages. They have no half-close: whichever side closes ends it.

use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use datagrams::Idle;
use protocol::Target;
use protocol::message::proxied::{ProxyReply, TcpTunnelClose, TcpTunnelData};
use tokio::io::AsyncWriteExt as _;
use tokio::time::sleep;

use super::failure::Failure;
use super::inbox::Outlet;
use super::reply::Replies;
use crate::metrics::TunnelFailure;
use crate::tunnel::Tunnels;

const READ: usize = 16 * 1024;
/// Once the client is gone, for what it has sent before to be taken.
const CLOSING: Duration = Duration::from_secs(5);

/// What a message says about where it comes from.
pub const FROM_AGENT: &str = "agent_to_gateway";

/// Dials and carries the tunnel to its end.
pub async fn run(
    tunnels: &Tunnels,
    target: &Target,
    mut outlet: Outlet<Bytes>,
    replies: &Replies,
) -> Result<(), Failure> {
    let tunnel = match tunnels.connect_tcp(target).await {
        Ok(tunnel) => tunnel,
        Err(error) => return refuse(replies, runtime::error_text(&error)).await,
    };
    let idle = Idle::new(tunnel.idle_timeout);
    let (from, mut to) = tunnel.socket.into_inner().into_split();
    let open = &tunnel.open;
    let (sent, received) = (AtomicU64::new(0), AtomicU64::new(0));
    // The client is: nobody is told anything any more.
    let gone = AtomicBool::new(false);
    let left = outlet.end();
    let overdue = async {
        left.await;
        sleep(CLOSING).await;
    };
    let writing = async {
        while let Some(bytes) = outlet.next().await {
            to.write_all(&bytes).await?;
            idle.moved();
            open.incoming(bytes.len() as u64);
            sent.fetch_add(bytes.len() as u64, Relaxed);
        }
        gone.store(true, Relaxed);
        to.shutdown().await
    };
    let reading = async {
        loop {
            from.readable().await.map_err(Broken::Service)?;
            // Only now: a tunnel on which nothing happens holds no buffer.
            let mut bytes = BytesMut::with_capacity(READ);
            match from.try_read_buf(&mut bytes) {
                Ok(0) => return Ok(()),
                Ok(read) => {
                    idle.moved();
                    open.outgoing(read as u64);
                    received.fetch_add(read as u64, Relaxed);
                    if gone.load(Relaxed) {
                        continue;
                    }
                    let data = TcpTunnelData { data: bytes.freeze().into(), direction: Some(FROM_AGENT.to_owned()) };
                    replies.send(ProxyReply::TcpData(data)).await.map_err(|_| Broken::Link)?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(Broken::Service(error)),
            }
        }
    };
    let (mut writing, mut reading, mut overdue) =
        (std::pin::pin!(writing), std::pin::pin!(reading), std::pin::pin!(overdue));
    let mut writes = true;
    let (reason, error) = loop {
        tokio::select! {
            read = &mut reading => match read {
                Ok(()) => break ("service_closed", None),
                Err(Broken::Link) => return Ok(()),
                Err(Broken::Service(error)) => {
                    open.failed(TunnelFailure::Copy);
                    break ("service_closed", Some(format!("the connection to {target} broke: {error}")));
                }
            },
            written = &mut writing, if writes => match written {
                // The client has closed. The Service's last words are read: a socket that is closed before that takes
                // what was written with it.
                Ok(()) => writes = false,
                Err(error) => {
                    open.failed(TunnelFailure::Copy);
                    break ("write_error", Some(format!("{target} takes nothing more: {error}")));
                }
            },
            () = &mut overdue => return Ok(()),
            () = idle.too_long() => {
                open.failed(TunnelFailure::Idle);
                let why = "nothing moved for as long as a tunnel may stand idle (tunnels.tcp.idle_timeout)";
                break ("service_closed", Some(why.to_owned()));
            }
        }
    };
    if gone.load(Relaxed) {
        return Ok(());
    }
    let duration = u64::try_from(open.since().elapsed().as_millis()).unwrap_or(u64::MAX);
    let close = TcpTunnelClose {
        reason: reason.to_owned(),
        bytes_sent: Some(sent.load(Relaxed)),
        bytes_received: Some(received.load(Relaxed)),
        duration_ms: Some(duration),
        error,
    };
    Ok(replies.send(ProxyReply::TcpClose(close)).await?)
}

enum Broken {
    Service(io::Error),
    Link,
}

/// Says that there is no connection.
pub async fn refuse(replies: &Replies, error: String) -> Result<(), Failure> {
    let reason = "connection_failed".to_owned();
    let close = TcpTunnelClose { reason, error: Some(error), ..TcpTunnelClose::default() };
    Ok(replies.send(ProxyReply::TcpClose(close)).await?)
}
