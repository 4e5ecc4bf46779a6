//! A user's session after its 101. One that does not end by itself is told why, as far as its protocol has words for it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use duplex::{Broken, Duplex, relay};
use exchange::Upgraded;
use mux::MuxStream;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::auth::TokenRecord;

/// For a client to take its last words, and to close.
pub const FAREWELL: Duration = Duration::from_secs(1);
/// Of a close frame, whose payload has 125 bytes.
const MAX_REASON: usize = 123;

/// The other half of a session, and what it ends with.
#[derive(Debug)]
pub struct Session {
    pub cluster: Upgraded<MuxStream>,
    pub token: Arc<TokenRecord>,
    /// Both sides speak WebSocket.
    pub websocket: bool,
}

/// Why a session ends before both sides have ended it, with the code of a WebSocket's close frame (RFC 6455, section 7.4.1).
#[derive(Debug, thiserror::Error)]
enum Cut {
    #[error("the cluster's side broke: {0}")]
    Broken(#[source] io::Error),
    #[error("the token was revoked")]
    Revoked,
    #[error("the control plane is shutting down")]
    Stopped,
}

impl Cut {
    fn code(&self) -> u16 {
        match self {
            Self::Broken(_) => 1011,
            Self::Revoked => 1008,
            Self::Stopped => 1001,
        }
    }

    /// A close frame as a server sends it.
    fn frame(&self) -> Vec<u8> {
        let mut reason = self.to_string();
        reason.truncate(reason.floor_char_boundary(MAX_REASON));
        let length = u8::try_from(2 + reason.len()).unwrap_or(u8::MAX);
        [&[0x88, length][..], &self.code().to_be_bytes(), reason.as_bytes()].concat()
    }
}

impl Session {
    /// Carries it to its end, or until `stop`.
    pub async fn run(self, client: impl Duplex, stop: &CancellationToken) {
        let mut client = Client { io: client, frames: Frames::default() };
        let cut = tokio::select! {
            ended = relay(&mut client, self.cluster, |_| {}) => match ended {
                Ok(()) => return,
                Err(Broken::Left(error)) => {
                    tracing::debug!(%error, "a session's client went away");
                    return;
                }
                Err(Broken::Right(error)) => Cut::Broken(error),
            },
            () = self.token.revoked().cancelled() => Cut::Revoked,
            () = stop.cancelled() => Cut::Stopped,
        };
        tracing::info!(token = self.token.id, reason = %cut, "session ended early");
        if self.websocket && client.frames.may_close() {
            // A client that does not listen is left alone.
            let _told = timeout(FAREWELL, client.close(&cut.frame())).await;
        }
    }
}

/// A client, and how far what it was sent has come.
struct Client<T> {
    io: T,
    frames: Frames,
}

impl<T: Duplex> Client<T> {
    async fn close(&mut self, frame: &[u8]) -> io::Result<()> {
        self.io.write_all(frame).await?;
        self.io.shutdown().await?;
        // Closed with something unread, TCP would take the frame back.
        while std::future::poll_fn(|cx| self.io.poll_chunk(cx)).await?.is_some() {}
        Ok(())
    }
}

impl<T: Duplex> Duplex for Client<T> {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        self.io.poll_chunk(cx)
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.io.poll_reset(cx)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Client<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        if let Poll::Ready(Ok(n)) = written {
            self.frames.advance(buf.get(..n).unwrap_or_default());
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Where the frames of one direction of a WebSocket begin and end (RFC 6455, section 5.2).
#[derive(Debug, Default)]
struct Frames {
    /// The first bytes of a frame, as far as they have come.
    head: [u8; Self::HEAD],
    come: usize,
    /// What is still to come of its payload.
    payload: u64,
    closed: bool,
}

impl Frames {
    /// With the longest length and a mask.
    const HEAD: usize = 14;

    fn advance(&mut self, mut bytes: &[u8]) {
        loop {
            let skipped = usize::try_from(self.payload).unwrap_or(usize::MAX).min(bytes.len());
            self.payload -= skipped as u64;
            let Some(([byte], rest)) = bytes.get(skipped..).and_then(<[u8]>::split_first_chunk) else { return };
            if let Some(place) = self.head.get_mut(self.come) {
                *place = *byte;
            }
            self.come += 1;
            bytes = rest;
            self.end_head();
        }
    }

    /// Once the head is whole, goes on to its payload.
    fn end_head(&mut self) {
        let [first, second, length @ ..] = self.head;
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        let (extended, payload) = match second & 0x7f {
            126 => (2, u64::from(u16::from_be_bytes([length[0], length[1]]))),
            127 => (8, length.first_chunk().copied().map_or(0, u64::from_be_bytes)),
            short => (0, u64::from(short)),
        };
        if self.come == 2 + extended + mask {
            self.closed |= first & 0x0f == 8;
            self.come = 0;
            self.payload = payload;
        }
    }

    /// Whether a close frame may follow: between two others, and as the first of its kind.
    fn may_close(&self) -> bool {
        self.come == 0 && self.payload == 0 && !self.closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: &[u8] = b"\x82\x03abc";
    const EMPTY: &[u8] = b"\x89\x00";
    const MASKED: &[u8] = b"\x82\x82mask\x01\x02";

    fn medium() -> Vec<u8> {
        [b"\x82\x7e\x01\x00".as_slice(), &[0x88; 256]].concat()
    }

    fn long() -> Vec<u8> {
        [b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00".as_slice(), &[0x88; 65536]].concat()
    }

    #[test]
    fn a_close_frame_may_follow_whole_frames_only_however_they_are_cut() {
        let (medium, long) = (medium(), long());
        let frames = [SHORT, EMPTY, MASKED, &medium, &long, SHORT];
        let all = frames.concat();
        let ends: Vec<usize> = frames
            .iter()
            .scan(0, |end, frame| {
                *end += frame.len();
                Some(*end)
            })
            .collect();
        for step in [1, 2, 3, 7, 1000, all.len()] {
            let mut state = Frames::default();
            let mut at = 0;
            for piece in all.chunks(step) {
                state.advance(piece);
                at += piece.len();
                assert_eq!(state.may_close(), ends.contains(&at), "after {at} bytes in steps of {step}");
            }
        }
    }

    #[test]
    fn nothing_follows_a_close_frame() {
        let mut state = Frames::default();
        state.advance(b"\x88\x02\x03\xe8");
        assert!(!state.may_close());
    }

    #[test]
    fn a_close_frame_has_its_code_and_as_much_of_the_reason_as_it_takes() {
        assert_eq!(Cut::Revoked.frame(), b"\x88\x17\x03\xf0the token was revoked");
        let long = Cut::Broken(io::Error::other("ü".repeat(100))).frame();
        assert!(long.len() <= 2 + 125 && long[1] as usize == long.len() - 2);
        assert!(str::from_utf8(&long[4..]).is_ok());
    }
}
