//! A client's connection during the handshake of the WebSocket.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, ReadBuf};

/// Reads the head of the answer, and holds back what comes with it: the handshake may read on, and frames have to be seen
/// from the first.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    read: usize,
    /// It is no 101: what follows is no frame, but says why.
    is_refusal: bool,
    /// Nothing is in the line yet.
    empty_line: bool,
    has_ended: bool,
    pub(crate) behind: Bytes,
}

impl Answer {
    pub(crate) fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        inner: &mut S,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_whole() {
            return Poll::Ready(Err(io::Error::other("read before it was settled what the handshake has agreed on")));
        }
        let start = buf.filled().len();
        ready!(Pin::new(inner).poll_read(cx, buf))?;
        let came = buf.filled().get(start..).unwrap_or_default();
        let end = came.iter().position(|byte| self.ends_with(*byte));
        if let Some((head, behind)) = end.and_then(|end| came.split_at_checked(end + 1))
            && !self.is_refusal
        {
            self.behind = Bytes::copy_from_slice(behind);
            let end = start + head.len();
            buf.set_filled(end);
        }
        Poll::Ready(Ok(()))
    }

    /// Its head was read, and opens a WebSocket: all that came behind it is held back.
    pub(crate) fn is_whole(&self) -> bool {
        self.has_ended && !self.is_refusal
    }

    /// The status comes after `HTTP/1.1 `; an empty line ends the head, however its line ends are written.
    fn ends_with(&mut self, byte: u8) -> bool {
        let of_status = self.read.checked_sub(9).and_then(|at| b"101".get(at));
        self.is_refusal |= of_status.is_some_and(|expected| *expected != byte);
        self.read += 1;
        if self.has_ended {
            return false;
        }
        self.has_ended = byte == b'\n' && self.empty_line;
        self.empty_line = byte == b'\n' || byte == b'\r' && self.empty_line;
        self.has_ended
    }
}
