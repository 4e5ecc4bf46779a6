//! What every byte stream of the product offers, whatever carries it: a link, the bus, a socket.
//!
//! A [`Duplex`] gives the bytes it receives in the pieces in which they came: nobody copies them, and a stream on which
//! nothing happens holds no buffer. It also tells when the peer has given it up while nobody reads, so that whoever
//! waits for the other side of a relay does not wait for nothing. [`Socket`] makes one of any TCP or TLS connection;
//! [`relay`] joins two of them, and a [`Relay`] leaves them to whoever has something to say to one of them yet.

mod relay;
mod socket;

use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;

pub use relay::{Broken, Relay, Relayed, relay};
pub use socket::Socket;

/// A byte stream both ways; each direction ends by itself.
pub trait Duplex: AsyncWrite + Unpin {
    /// The next received bytes as they came, never empty; none at the peer's clean end.
    ///
    /// # Errors
    /// The stream broke, or the peer gave it up: what was received before may be incomplete.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>>;

    /// Resolves when the stream is broken or given up by the peer, even while received bytes wait unread; not while all
    /// that the peer had to say, up to its end, has arrived and can still be read. Takes nothing. For whoever does not
    /// read at the moment: it and [`poll_chunk`](Self::poll_chunk) share one waker, the last one counts. A stream that
    /// cannot tell stays pending.
    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Error>;
}

impl<T: Duplex> Duplex for &mut T {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        (**self).poll_chunk(cx)
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        (**self).poll_reset(cx)
    }
}
