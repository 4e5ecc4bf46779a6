use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use duplex::Duplex;

/// Pieces up to this size are gathered; larger ones are written from where they are.
const COPIED: usize = 2 * 1024;
/// What is gathered before it is written in any case.
const GATHERED: usize = 8 * 1024;

/// What is to be written: `gathered`, then `piece`, then `after`. Nothing is held once all of it was taken.
#[derive(Debug, Default)]
pub(crate) struct Output {
    gathered: BytesMut,
    piece: Bytes,
    after: &'static [u8],
    unflushed: bool,
}

impl Output {
    /// Where heads and small pieces go. Only when there is room.
    pub(crate) fn gathered(&mut self) -> &mut BytesMut {
        &mut self.gathered
    }

    /// Adds a piece of a body and what ends it. Only when there is room.
    pub(crate) fn add(&mut self, piece: Bytes, after: &'static [u8]) {
        if piece.len() <= COPIED {
            self.gathered.extend_from_slice(&piece);
            self.gathered.extend_from_slice(after);
        } else {
            (self.piece, self.after) = (piece, after);
        }
    }

    /// Resolves when more can be added, once a large piece has been written.
    pub(crate) fn poll_room<T: Duplex>(&mut self, cx: &mut Context<'_>, io: &mut T) -> Poll<io::Result<()>> {
        while !self.piece.is_empty() || self.gathered.len() >= GATHERED {
            ready!(self.poll_write(cx, io))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes everything and makes it leave.
    pub(crate) fn poll_flush<T: Duplex>(&mut self, cx: &mut Context<'_>, io: &mut T) -> Poll<io::Result<()>> {
        while !self.piece.is_empty() || !self.gathered.is_empty() {
            ready!(self.poll_write(cx, io))?;
        }
        self.gathered = BytesMut::new();
        if self.unflushed {
            ready!(Pin::new(io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write<T: Duplex>(&mut self, cx: &mut Context<'_>, io: &mut T) -> Poll<io::Result<()>> {
        let parts = [IoSlice::new(&self.gathered), IoSlice::new(&self.piece), IoSlice::new(self.after)];
        let parts = if self.gathered.is_empty() { parts.get(1..) } else { parts.get(..) };
        let mut written = ready!(Pin::new(&mut *io).poll_write_vectored(cx, parts.unwrap_or_default()))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.unflushed = true;
        let n = written.min(self.gathered.len());
        self.gathered.advance(n);
        written -= n;
        let n = written.min(self.piece.len());
        self.piece.advance(n);
        written -= n;
        if self.piece.is_empty() {
            // An empty rest would keep the buffer that the piece lies in.
            self.piece = Bytes::new();
            // What ends the piece goes with what follows it: by itself it would cost a write.
            let after = std::mem::take(&mut self.after);
            self.gathered.extend_from_slice(after.get(written..).unwrap_or_default());
        }
        Poll::Ready(Ok(()))
    }
}
