//! What the peer sends, on its way up.

mod inflate;

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, ReadBuf};

use crate::frame::{BINARY, CONTINUATION, CONTROL, FIN, Frame, Head, Mask, OPCODE, RSV, RSV1, TEXT, mask};
use inflate::Inflating;

/// How a peer breaks the rules of the extension; the source of the `io::Error`.
#[derive(Debug, thiserror::Error)]
pub enum Violation {
    #[error("a compressed message of more than {limit} bytes")]
    TooBig { limit: usize },
    #[error("a compressed message that cannot be unpacked")]
    Corrupt,
    #[error("a new message before the end of one that is compressed")]
    Interleaved,
    #[error("a compressed frame with a mask from a server, or without one from a client")]
    Mask,
}

/// Where the frames of messages go.
#[derive(Debug)]
enum Message {
    /// Between two.
    None,
    /// On, as they are.
    Plain,
    /// Boxed: rare, and large.
    Compressed(Box<Inflating>),
}

#[derive(Clone, Copy, Debug)]
enum Way {
    On,
    /// Unpacked here; the frame is the message's last.
    Unpacked {
        last: bool,
    },
}

/// The payload of a frame.
#[derive(Debug)]
struct Body {
    left: u64,
    mask: Mask,
}

#[derive(Debug)]
enum Failure {
    None,
    /// Told once all that came before it has been read.
    Due(Violation),
    Told,
}

#[derive(Debug)]
pub(crate) struct Reader {
    /// The peer is a client.
    masked: bool,
    /// Bytes of a message.
    limit: usize,
    /// Received and not looked at yet.
    behind: Bytes,
    /// A message, unpacked.
    ready: Bytes,
    head: Head,
    way: Way,
    body: Option<Body>,
    message: Message,
    failure: Failure,
}

impl Reader {
    /// `behind` has been read from the connection already.
    pub(crate) fn new(masked: bool, limit: usize, behind: Bytes) -> Self {
        Self {
            masked,
            limit,
            behind,
            ready: Bytes::new(),
            head: Head::default(),
            way: Way::On,
            body: None,
            message: Message::None,
            failure: Failure::None,
        }
    }

    pub(crate) fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        inner: &mut S,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.ready.has_remaining() {
                hand_on(&mut self.ready, buf);
                return Poll::Ready(Ok(()));
            }
            match std::mem::replace(&mut self.failure, Failure::Told) {
                Failure::None => self.failure = Failure::None,
                Failure::Due(violation) => {
                    return Poll::Ready(Err(io::Error::new(ErrorKind::InvalidData, violation)));
                }
                // Who closes the connection empties it first.
                Failure::Told => return Pin::new(inner).poll_read(cx, buf),
            }
            let start = buf.filled().len();
            let is_behind = self.behind.has_remaining();
            if is_behind {
                let part = self.behind.len().min(buf.remaining());
                buf.put_slice(self.behind.get(..part).unwrap_or_default());
            } else {
                ready!(Pin::new(&mut *inner).poll_read(cx, buf))?;
            }
            let came = buf.filled_mut().get_mut(start..).unwrap_or_default();
            if came.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let (seen, stays) = self.look_at(came);
            if is_behind {
                self.behind.advance(seen);
                if self.behind.is_empty() {
                    self.behind = Bytes::new();
                }
            } else {
                self.behind = Bytes::copy_from_slice(came.get(seen..).unwrap_or_default());
            }
            buf.set_filled(start + stays);
            if stays > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Moves what goes on to the front. Gives how much was looked at, up to the end of a compressed message at most, and
    /// how much of it goes on.
    fn look_at(&mut self, data: &mut [u8]) -> (usize, usize) {
        let (mut at, mut kept) = (0, 0);
        while let Some(byte) = data.get(at).copied() {
            let looked = match &mut self.body {
                Some(body) => {
                    let rest = data.len() - at;
                    let part = usize::try_from(body.left).unwrap_or(rest).min(rest);
                    body.left -= u64::try_from(part).unwrap_or_default();
                    let (from, done) = (at, body.left == 0);
                    at += part;
                    let taken = match (self.way, &mut self.message) {
                        (Way::Unpacked { .. }, Message::Compressed(inflating)) => {
                            let part = data.get_mut(from..at).unwrap_or_default();
                            body.mask = mask(part, body.mask);
                            inflating.take(part, self.limit)
                        }
                        _ => {
                            if kept < from {
                                data.copy_within(from..at, kept);
                            }
                            kept += part;
                            Ok(())
                        }
                    };
                    taken.and_then(|()| if done { self.end_frame() } else { Ok(()) })
                }
                None => {
                    at += 1;
                    let begun = if self.head.is_empty() { self.begin_frame(byte) } else { Ok(()) };
                    if matches!(self.way, Way::On)
                        && let Some(place) = data.get_mut(kept)
                    {
                        *place = byte;
                        kept += 1;
                    }
                    begun.and_then(|()| self.head.push(byte).map_or(Ok(()), |frame| self.begin_body(frame)))
                }
            };
            if let Err(violation) = looked {
                self.message = Message::None;
                self.failure = Failure::Due(violation);
                return (data.len(), kept);
            }
            if self.ready.has_remaining() {
                break;
            }
        }
        (at, kept)
    }

    /// Bits that nobody has agreed to go on with their frames: the WebSocket above refuses them.
    fn begin_frame(&mut self, first: u8) -> Result<(), Violation> {
        let (last, rsv, opcode) = (first & FIN != 0, first & RSV, first & OPCODE);
        self.way = Way::On;
        match (opcode, rsv, &self.message) {
            (TEXT | BINARY, RSV1, Message::None) => {
                self.message = Message::Compressed(Box::new(Inflating::new(opcode)));
                self.way = Way::Unpacked { last };
            }
            (CONTINUATION, 0, Message::Compressed(_)) => self.way = Way::Unpacked { last },
            // Above nobody knows that there is one.
            (TEXT | BINARY, 0, Message::Compressed(_)) => return Err(Violation::Interleaved),
            (TEXT | BINARY, 0, _) if !last => self.message = Message::Plain,
            (CONTINUATION, 0, Message::Plain) if last => self.message = Message::None,
            (..CONTROL, ..) | (CONTROL.., ..) => {}
        }
        Ok(())
    }

    fn begin_body(&mut self, frame: Frame) -> Result<(), Violation> {
        if matches!(self.way, Way::Unpacked { .. }) && frame.mask.is_some() != self.masked {
            return Err(Violation::Mask);
        }
        self.body = Some(Body { left: frame.length, mask: frame.mask.unwrap_or_default() });
        if frame.length == 0 { self.end_frame() } else { Ok(()) }
    }

    fn end_frame(&mut self) -> Result<(), Violation> {
        self.body = None;
        if matches!(self.way, Way::Unpacked { last: true })
            && let Message::Compressed(inflating) = std::mem::replace(&mut self.message, Message::None)
        {
            self.ready = inflating.end(self.masked, self.limit)?;
        }
        Ok(())
    }
}

pub(crate) fn hand_on(from: &mut Bytes, buf: &mut ReadBuf<'_>) {
    let part = from.split_to(from.len().min(buf.remaining()));
    buf.put_slice(&part);
    if from.is_empty() {
        *from = Bytes::new();
    }
}
