use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use deflate::Deflated;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

/// What a link goes by to tell whether its peer is still there.
pub trait Pace {
    /// When the last byte came.
    fn heard(&self) -> Instant;
    /// Since when the socket takes none.
    fn stuck(&self) -> Option<Instant>;
}

/// A socket that knows when the last byte came, and since when it takes none. A link that is slow shows life by whatever
/// moves (over TLS by each record), long before a whole message is through.
#[derive(Debug)]
pub struct Timed<S> {
    inner: S,
    heard: Instant,
    stuck: Option<Instant>,
    /// The last write found no room.
    full: bool,
}

impl<S> Timed<S> {
    /// Around the bare socket, or the encrypted one; before the handshake of the WebSocket.
    pub fn new(inner: S) -> Self {
        Self { inner, heard: Instant::now(), stuck: None, full: false }
    }

    /// That there is room proves nothing where the encryption below has a buffer of its own; that there is room again
    /// does.
    fn written(&mut self, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if outcome.is_pending() {
            self.full = true;
            self.stuck.get_or_insert_with(Instant::now);
        } else if std::mem::take(&mut self.full) {
            self.stuck = None;
        }
        outcome
    }
}

impl<S> Pace for Timed<S> {
    fn heard(&self) -> Instant {
        self.heard
    }

    fn stuck(&self) -> Option<Instant> {
        self.stuck
    }
}

/// The time is taken below it: a message that is compressed comes up at once, when its last byte has come.
impl<S: Pace> Pace for Deflated<S> {
    fn heard(&self) -> Instant {
        self.get_ref().heard()
    }

    fn stuck(&self) -> Option<Instant> {
        self.get_ref().stuck()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let outcome = Pin::new(&mut self.inner).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.heard = Instant::now();
        }
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.written(outcome)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_flush(cx);
        if outcome.is_pending() {
            self.stuck.get_or_insert_with(Instant::now);
        } else {
            self.stuck = None;
        }
        outcome
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.written(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    /// Encryption with room in its buffer over a socket that takes nothing.
    struct Buffer {
        flushes: bool,
    }

    impl AsyncWrite for Buffer {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            if self.flushes { Poll::Ready(Ok(())) } else { Poll::Pending }
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn room_in_a_buffer_is_no_progress() {
        let mut socket = Timed::new(Buffer { flushes: false });
        socket.write_u8(0).now_or_never().unwrap().unwrap();
        assert_eq!(socket.stuck(), None);
        assert!(socket.flush().now_or_never().is_none());
        let since = socket.stuck().unwrap();
        socket.write_u8(0).now_or_never().unwrap().unwrap();
        assert!(socket.flush().now_or_never().is_none());
        assert_eq!(socket.stuck(), Some(since));
        socket.inner.flushes = true;
        socket.flush().now_or_never().unwrap().unwrap();
        assert_eq!(socket.stuck(), None);
    }

    #[tokio::test]
    async fn a_byte_is_heard_and_room_that_comes_back_is_progress() {
        let (near, mut far) = duplex(8);
        let mut near = Timed::new(near);
        let start = near.heard();
        assert!(near.read_u8().now_or_never().is_none());
        assert_eq!(near.heard(), start);
        far.write_u8(1).await.unwrap();
        near.read_u8().await.unwrap();
        assert!(near.heard() > start);

        near.write_all(&[0; 8]).await.unwrap();
        assert_eq!(near.stuck(), None);
        assert!(near.write_u8(0).now_or_never().is_none());
        let since = near.stuck().unwrap();
        assert!(near.write_u8(0).now_or_never().is_none());
        assert_eq!(near.stuck(), Some(since));
        far.read_u8().await.unwrap();
        near.write_u8(0).await.unwrap();
        assert_eq!(near.stuck(), None);
    }
}
