use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes, BytesMut};
use duplex::Duplex;
use protocol::stream::{Datagrams, put_datagram};

use crate::DatagramQueue;

/// Datagrams handled before other tasks get their turn.
const TURN: usize = 64;

/// Where the datagrams of one client come from and go to, such as a UDP socket. An error loses a datagram and no more.
pub trait Port {
    /// The next one.
    ///
    /// # Errors
    /// Such as "connection refused", from a port where nobody listens at the moment. The next one may come.
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>>;

    /// Sends one.
    ///
    /// # Errors
    /// When this one cannot be sent, such as one that is too large.
    fn poll_send(&mut self, cx: &mut Context<'_>, datagram: &[u8]) -> Poll<io::Result<()>>;
}

/// How datagrams stand in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Each behind its length.
    Lengths,
    /// Nothing between them: each piece in which the stream's bytes come is taken for one.
    None,
}

/// What happened since the last report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Datagrams from the stream that the port has taken, and the other way.
    pub to_port: u64,
    pub from_port: u64,
    /// Datagrams that were dropped for newer ones.
    pub dropped: u64,
    /// Datagrams that the port did not send, or failed to receive.
    pub failed: u64,
    /// Bytes of the stream, framing included.
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// Carries datagrams both ways, to the end of the stream.
#[derive(Debug)]
pub struct DatagramRelay<S, P> {
    stream: S,
    port: P,
    framing: Framing,
    arriving: Datagrams,
    to_port: DatagramQueue,
    to_stream: DatagramQueue,
    /// What is left of the one that is being written to the stream.
    writing: Bytes,
}

impl<S: Duplex, P: Port> DatagramRelay<S, P> {
    /// At most `buffer` bytes wait in each direction.
    pub fn new(stream: S, port: P, framing: Framing, buffer: usize) -> Self {
        Self {
            stream,
            port,
            framing,
            arriving: Datagrams::default(),
            to_port: DatagramQueue::new(buffer),
            to_stream: DatagramQueue::new(buffer),
            writing: Bytes::new(),
        }
    }

    /// Resolves at the clean end of the stream. `report` is told what moves.
    ///
    /// # Errors
    /// When the stream breaks.
    pub fn poll(&mut self, cx: &mut Context<'_>, report: &impl Fn(Moved)) -> Poll<io::Result<()>> {
        for _ in 0..TURN {
            let mut moved = Moved::default();
            let carried = self.turn(cx, &mut moved);
            let rests = moved == Moved::default();
            if !rests {
                report(moved);
            }
            match carried {
                Poll::Ready(ended) => return Poll::Ready(ended),
                Poll::Pending if rests => return Poll::Pending,
                Poll::Pending => {}
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Ends this end's direction of the stream: nothing was cut.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn turn(&mut self, cx: &mut Context<'_>, moved: &mut Moved) -> Poll<io::Result<()>> {
        self.receive(cx, moved);
        self.write(cx, moved)?;
        self.send(cx, moved);
        // The stream's window holds back a peer that sends more than the port takes.
        if !self.to_port.is_empty() {
            return self.stream.poll_reset(cx).map(Err);
        }
        match self.stream.poll_chunk(cx)? {
            Poll::Ready(Some(chunk)) => {
                moved.bytes_in += chunk.len() as u64;
                self.arrive(chunk, moved);
                Poll::Pending
            }
            Poll::Ready(None) => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        }
    }

    fn receive(&mut self, cx: &mut Context<'_>, moved: &mut Moved) {
        match self.port.poll_recv(cx) {
            Poll::Ready(Ok(datagram)) => {
                moved.from_port += 1;
                moved.dropped += self.to_stream.push(datagram) as u64;
            }
            Poll::Ready(Err(_)) => moved.failed += 1,
            Poll::Pending => {}
        }
    }

    fn write(&mut self, cx: &mut Context<'_>, moved: &mut Moved) -> io::Result<()> {
        let mut unflushed = false;
        loop {
            if self.writing.is_empty() {
                let Some(datagram) = self.to_stream.pop() else { break };
                self.writing = match self.framing {
                    Framing::Lengths => framed(&datagram),
                    Framing::None => datagram,
                };
                if self.writing.is_empty() {
                    continue;
                }
            }
            match Pin::new(&mut self.stream).poll_write(cx, &self.writing)? {
                Poll::Ready(written) => {
                    self.writing.advance(written.min(self.writing.len()));
                    moved.bytes_out += written as u64;
                    unflushed = true;
                }
                Poll::Pending => break,
            }
        }
        if unflushed {
            // Pending or not, an error shows with the next write.
            let _flushed = Pin::new(&mut self.stream).poll_flush(cx)?;
        }
        Ok(())
    }

    fn arrive(&mut self, chunk: Bytes, moved: &mut Moved) {
        match self.framing {
            Framing::None => moved.dropped += self.to_port.push(chunk) as u64,
            Framing::Lengths => {
                self.arriving.push(&chunk);
                while let Some(datagram) = self.arriving.next() {
                    moved.dropped += self.to_port.push(datagram) as u64;
                }
            }
        }
    }

    fn send(&mut self, cx: &mut Context<'_>, moved: &mut Moved) {
        while let Some(datagram) = self.to_port.front() {
            match self.port.poll_send(cx, datagram) {
                Poll::Ready(Ok(())) => moved.to_port += 1,
                // Too large, or refused by the port just now: this one is lost.
                Poll::Ready(Err(_)) => moved.failed += 1,
                Poll::Pending => return,
            }
            self.to_port.pop();
        }
    }
}

fn framed(datagram: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    put_datagram(&mut out, datagram);
    out.freeze()
}
