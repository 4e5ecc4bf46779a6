//! The layer below a link's WebSocket that unpacks messages. Where the bytes are cut does not matter.
//!
//! Of an input, the first byte says who reads (odd: a server, for whom all has masks), the second into how large pieces the
//! rest is cut.

use super::kind_of;
use bytes::Bytes;
use deflate::Deflated;
use futures::FutureExt;
use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

/// Of a message.
const LIMIT: usize = 16 * 1024;
const HEAD: &[u8] = b"HTTP/1.1 101 Yes\r\n\r\n";

pub(super) fn check(input: &[u8]) -> Result<String, String> {
    let (first, rest) = input.split_first().unwrap_or((&0, &[]));
    let (piece, bytes) = rest.split_first().unwrap_or((&0, &[]));
    let by_server = first & 1 != 0;
    let whole = unpacked(bytes, by_server, bytes.len().max(1))?;
    for size in [1, usize::from(*piece).max(1)] {
        let cut = unpacked(bytes, by_server, size)?;
        // Of two faults in one message, which shows first depends on how much is unpacked at once.
        if (&cut.0, cut.1.is_some()) != (&whole.0, whole.1.is_some()) {
            return Err(format!("as a whole it is {whole:?}, and by pieces of {size} {cut:?}"));
        }
    }
    let (out, error) = whole;
    let size = out.len().checked_ilog2();
    Ok(format!("{by_server} {size:?} {} {error:?}", out.len() > bytes.len()))
}

/// What comes up, and the error that ends it.
fn unpacked(bytes: &[u8], by_server: bool, size: usize) -> Result<(Vec<u8>, Option<String>), String> {
    let head = if by_server { &[] } else { HEAD };
    let all = [head, bytes].concat();
    let pieces = Pieces { bytes: &all, size };
    let mut socket = if by_server {
        Deflated::accepted(pieces, Bytes::new(), LIMIT)
    } else {
        let mut socket = Deflated::offering(pieces);
        let mut read = [0; HEAD.len()];
        let done = socket.read_exact(&mut read).now_or_never().ok_or("it waits for a head that has come")?;
        done.map_err(|error| error.to_string())?;
        socket.settle(Some(LIMIT)).map_err(|error| error.to_string())?;
        socket
    };
    let mut out = Vec::new();
    let mut buffer = vec![0; size.min(4096)];
    loop {
        let read = socket.read(&mut buffer).now_or_never().ok_or("it waits for what has come")?;
        match read {
            Ok(0) => return Ok((out, None)),
            Ok(n) => out.extend(buffer.get(..n).unwrap_or_default()),
            Err(error) => return Ok((out, Some(kind_of(error)))),
        }
    }
}

/// A connection that brings as much at once, and then ends.
struct Pieces<'a> {
    bytes: &'a [u8],
    size: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let size = self.size.min(buf.remaining()).min(self.bytes.len());
        let (piece, rest) = self.bytes.split_at(size);
        buf.put_slice(piece);
        self.bytes = rest;
        Poll::Ready(Ok(()))
    }
}
