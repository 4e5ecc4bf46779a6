use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::Upgraded;

/// Bytes carried each way by a finished [`relay`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Relayed {
    pub from_left: u64,
    pub from_right: u64,
}

const BUFFER: usize = 16 * 1024;

/// Copies bytes both ways until both sides have ended; what was read ahead on either side goes first.
/// The end of one direction is passed on as a half-close. An error on either side ends both at once.
pub async fn relay<L, R>(left: Upgraded<L>, right: Upgraded<R>) -> io::Result<Relayed>
where
    L: AsyncRead + AsyncWrite + Unpin,
    R: AsyncRead + AsyncWrite + Unpin,
{
    let mut left = Ahead { io: left.io, ahead: left.read_buf };
    let mut right = Ahead { io: right.io, ahead: right.read_buf };
    let (from_left, from_right) =
        tokio::io::copy_bidirectional_with_sizes(&mut left, &mut right, BUFFER, BUFFER).await?;
    // Both ends are already half-closed by the copy; a flush makes the last bytes leave before the drop.
    left.flush().await.and(right.flush().await)?;
    Ok(Relayed { from_left, from_right })
}

/// A stream whose first bytes have already been read.
struct Ahead<T> {
    io: T,
    ahead: Bytes,
}

impl<T: AsyncRead + Unpin> AsyncRead for Ahead<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let n = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead.split_to(n));
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Ahead<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
        Poll::Ready(Ok(()))
    }
}
