use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;
use datagrams::{DatagramRelay, Framing, Idle, Moved, Port, poll_recv};
use duplex::Relayed;
use exchange::Upgraded;
use mux::MuxStream;
use tokio::net::UdpSocket;

use super::Tunnel;
use crate::metrics::{OpenTunnel, TunnelFailure};
use crate::options::UdpTunnels;

/// A socket that is connected to the Service.
struct Service(UdpSocket);

impl Port for Service {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        poll_recv(&self.0, cx)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, datagram: &[u8]) -> Poll<io::Result<()>> {
        self.0.poll_send(cx, datagram).map_ok(|_| ())
    }
}

/// One client's datagrams, in both directions. An error of UDP itself loses a datagram and no more; the session ends with
/// its stream, or when it was idle for too long.
pub(super) async fn carry(
    tunnel: Tunnel<UdpSocket>,
    stream: Upgraded<MuxStream>,
    framed: bool,
    options: &UdpTunnels,
    report: impl Fn(Relayed),
) -> io::Result<()> {
    let Tunnel { socket, open, idle_timeout, _place } = tunnel;
    let idle = Idle::new(idle_timeout);
    let framing = if framed { Framing::Lengths } else { Framing::None };
    let mut relay = DatagramRelay::new(stream, Service(socket), framing, options.buffer_size);
    let moved = |moved: Moved| {
        idle.moved();
        count(&open, moved);
        report(Relayed { from_left: moved.bytes_in, from_right: moved.bytes_out });
    };
    tokio::select! {
        carried = std::future::poll_fn(|cx| relay.poll(cx, &moved)) => carried?,
        () = idle.too_long() => open.failed(TunnelFailure::Idle),
    }
    // The stream ends, it is not reset: nothing was cut.
    std::future::poll_fn(|cx| relay.poll_shutdown(cx)).await
}

fn count(open: &OpenTunnel, moved: Moved) {
    open.incoming(moved.to_port);
    open.outgoing(moved.from_port);
    for _ in 0..moved.dropped {
        open.failed(TunnelFailure::Dropped);
    }
    for _ in 0..moved.failed {
        open.failed(TunnelFailure::Copy);
    }
}
