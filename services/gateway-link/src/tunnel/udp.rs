use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes, BytesMut};
use duplex::{Duplex, Relayed};
use exchange::Upgraded;
use mux::MuxStream;
use protocol::stream::{Datagrams, put_datagram};
use tokio::io::AsyncWrite;
use tokio::net::UdpSocket;

use super::datagrams::poll_recv;
use super::{DatagramQueue, Idle, Tunnel};
use crate::metrics::{OpenTunnel, TunnelFailure};
use crate::options::UdpTunnels;

/// Datagrams handled before other tasks get their turn.
const TURN: usize = 64;

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
    let mut session = Session {
        stream,
        socket,
        open,
        framed,
        arriving: Datagrams::default(),
        to_service: DatagramQueue::new(options.buffer_size),
        to_client: DatagramQueue::new(options.buffer_size),
        writing: Bytes::new(),
    };
    let carried = tokio::select! {
        carried = std::future::poll_fn(|cx| session.poll(cx, &idle, &report)) => Some(carried),
        () = idle.too_long() => None,
    };
    match carried {
        Some(Ok(())) => {}
        Some(Err(error)) => return Err(error),
        None => session.open.failed(TunnelFailure::Idle),
    }
    // The stream ends, it is not reset: nothing was cut.
    std::future::poll_fn(|cx| Pin::new(&mut session.stream).poll_shutdown(cx)).await
}

struct Session {
    stream: Upgraded<MuxStream>,
    socket: UdpSocket,
    open: OpenTunnel,
    /// Datagrams stand behind their lengths; else each piece is one.
    framed: bool,
    arriving: Datagrams,
    to_service: DatagramQueue,
    to_client: DatagramQueue,
    /// What is left of the one that is being written to the stream.
    writing: Bytes,
}

impl Session {
    /// Resolves at the end of the stream.
    fn poll(&mut self, cx: &mut Context<'_>, idle: &Idle, report: &impl Fn(Relayed)) -> Poll<io::Result<()>> {
        for _ in 0..TURN {
            let mut moved = self.poll_receive(cx);
            let written = self.poll_write(cx)?;
            moved |= written > 0;
            moved |= self.poll_send(cx);
            let mut arrived = 0;
            // The stream's window holds back a client that sends more than the Service's socket takes.
            if self.to_service.is_empty() {
                match self.stream.poll_chunk(cx) {
                    Poll::Ready(Ok(Some(chunk))) => {
                        self.arrive(&chunk);
                        arrived = chunk.len();
                        moved = true;
                    }
                    Poll::Ready(Ok(None)) => return Poll::Ready(Ok(())),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {}
                }
            } else if let Poll::Ready(error) = self.stream.poll_reset(cx) {
                return Poll::Ready(Err(error));
            }
            if !moved {
                return Poll::Pending;
            }
            report(Relayed { from_left: arrived as u64, from_right: written as u64 });
            idle.moved();
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> bool {
        match poll_recv(&self.socket, cx) {
            Poll::Ready(Ok(datagram)) => {
                self.open.outgoing(1);
                for _ in 0..self.to_client.push(datagram) {
                    self.open.failed(TunnelFailure::Dropped);
                }
                true
            }
            // Such as "connection refused", from a port where nobody listens at the moment.
            Poll::Ready(Err(_)) => {
                self.open.failed(TunnelFailure::Copy);
                true
            }
            Poll::Pending => false,
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> io::Result<usize> {
        let mut total = 0;
        loop {
            if self.writing.is_empty() {
                let Some(datagram) = self.to_client.pop() else { return Ok(total) };
                self.writing = if self.framed { framed(&datagram) } else { datagram };
                if self.writing.is_empty() {
                    continue;
                }
            }
            match Pin::new(&mut self.stream).poll_write(cx, &self.writing)? {
                Poll::Ready(written) => {
                    self.writing.advance(written.min(self.writing.len()));
                    total += written;
                }
                Poll::Pending => return Ok(total),
            }
        }
    }

    fn arrive(&mut self, chunk: &Bytes) {
        let mut dropped = 0;
        if self.framed {
            self.arriving.push(chunk);
            while let Some(datagram) = self.arriving.next() {
                dropped += self.to_service.push(datagram);
            }
        } else {
            dropped += self.to_service.push(chunk.clone());
        }
        for _ in 0..dropped {
            self.open.failed(TunnelFailure::Dropped);
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while let Some(datagram) = self.to_service.front() {
            match self.socket.poll_send(cx, datagram) {
                Poll::Ready(Ok(_)) => self.open.incoming(1),
                // Too large, or refused by the port just now: this one is lost, as on any network.
                Poll::Ready(Err(_)) => self.open.failed(TunnelFailure::Copy),
                Poll::Pending => return moved,
            }
            self.to_service.pop();
            moved = true;
        }
        moved
    }
}

fn framed(datagram: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    put_datagram(&mut out, datagram);
    out.freeze()
}
