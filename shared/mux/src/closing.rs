//! The end of a link: say why, and give the peer the time to hear it.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    closed::Closed,
    driver::Io,
    state::{Shared, lock},
    timed::Pace,
};

#[derive(Debug)]
enum Stage {
    /// Text and stream data that were there before the end.
    Rest,
    Flush,
    Shutdown,
    /// A socket closed with unread data answers with a TCP reset, and that can overtake the close frame.
    Drain,
}

#[derive(Debug)]
pub(crate) struct Closing {
    why: Closed,
    stage: Stage,
    deadline: Pin<Box<Sleep>>,
}

impl Closing {
    pub(crate) fn new(why: Closed, timeout: Duration) -> Self {
        Self { why, stage: Stage::Rest, deadline: Box::pin(sleep(timeout)) }
    }

    pub(crate) fn poll<S>(&mut self, cx: &mut Context<'_>, io: &mut Io<S>, shared: &Shared) -> Poll<Closed>
    where
        S: AsyncRead + AsyncWrite + Pace + Unpin + Send + 'static,
    {
        io.refuse_texts();
        let silent = matches!(self.why, Closed::Lost | Closed::Io(_) | Closed::Dead(_) | Closed::Dropped);
        if !silent
            && self.handshake(cx, io, shared).is_ok_and(|done| done.is_pending())
            && self.deadline.as_mut().poll(cx).is_pending()
        {
            return Poll::Pending;
        }
        Poll::Ready(self.why.clone())
    }

    /// An error means that there is nobody left to close with.
    fn handshake<S>(&mut self, cx: &mut Context<'_>, io: &mut Io<S>, shared: &Shared) -> Result<Poll<()>, Closed>
    where
        S: AsyncRead + AsyncWrite + Pace + Unpin + Send + 'static,
    {
        loop {
            match self.stage {
                Stage::Rest => {
                    if io.poll_flush(cx)?.is_pending() {
                        return Ok(Poll::Pending);
                    }
                    let local = matches!(self.why, Closed::Local { .. });
                    if local && io.feed_texts(cx, shared)? {
                        continue;
                    }
                    let rest = lock(&shared.output).take();
                    if local && !rest.is_empty() {
                        io.send(rest, shared)?;
                        continue;
                    }
                    if let Some(frame) = self.why.frame() {
                        io.feed(Message::Close(Some(frame)))?;
                    } else {
                        io.reply_to_close();
                    }
                    self.stage = Stage::Flush;
                }
                Stage::Flush => {
                    if io.poll_flush(cx)?.is_pending() {
                        return Ok(Poll::Pending);
                    }
                    self.stage = Stage::Shutdown;
                }
                Stage::Shutdown => {
                    if Pin::new(io.ws.get_mut())
                        .poll_shutdown(cx)
                        .map_err(|error| Closed::Io(error.into()))?
                        .is_pending()
                    {
                        return Ok(Poll::Pending);
                    }
                    self.stage = Stage::Drain;
                }
                Stage::Drain => return Ok(drain(Pin::new(io.ws.get_mut()), cx)),
            }
        }
    }
}

fn drain<S: AsyncRead>(mut socket: Pin<&mut S>, cx: &mut Context<'_>) -> Poll<()> {
    let mut space = [0; 4096];
    loop {
        let mut buf = ReadBuf::new(&mut space);
        if ready!(socket.as_mut().poll_read(cx, &mut buf)).is_err() || buf.filled().is_empty() {
            return Poll::Ready(());
        }
    }
}
