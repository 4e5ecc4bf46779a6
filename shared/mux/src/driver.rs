use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use futures::{Sink, Stream};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    time::{Instant, Sleep, sleep_until},
};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

use crate::{
    accept::{Control, ControlFrame, Incoming, Streams},
    closed::Closed,
    closing::Closing,
    config::{BULK, Config, LAZY, OUT_LIMIT, Role},
    link::Link,
    liveness::Liveness,
    session::Session,
    signals::{LINK, READ, TIMER, WRITE},
    state::{Shared, lock},
    stream::state::StreamState,
    timed::Pace,
};

/// Rounds of reading and writing before other tasks get a turn.
const ROUNDS: usize = 8;
/// Messages read in one round.
const READS: usize = 8;

/// Puts a link on `ws`. The caller spawns the [`Driver`] and keeps its handle; dropping the driver ends the link
/// without a word to the peer. Use [`Config::websocket`] for the handshake of `ws`, and set `TCP_NODELAY` on its
/// socket. Below it there is a [`Timed`](crate::Timed).
pub fn start<S>(ws: WebSocketStream<S>, role: Role, config: Config) -> (Link, Incoming, Driver<S>)
where
    S: AsyncRead + AsyncWrite + Pace + Unpin + Send + 'static,
{
    let shared = Arc::new(Shared::new(role, &config));
    let signals = shared.signals.clone();
    let (text_sender, texts) = mpsc::channel(config.control_queue.max(1));
    let (bulk_sender, bulk) = mpsc::channel(BULK);
    let (control, control_queue) = mpsc::channel(config.control_queue.max(1));
    let (accepted, accept_queue) = mpsc::channel(config.accept_queue.max(1));

    let link = Link { shared: shared.clone(), texts: text_sender, bulk: bulk_sender };
    let incoming = Incoming {
        control: Control { queue: control_queue, shared: shared.clone() },
        streams: Streams { queue: accept_queue },
    };
    let now = Instant::now();
    let liveness = Liveness::new(&config, now);
    let driver = Driver {
        wakers: Wakers { read: signals.waker(READ), write: signals.waker(WRITE), timer: signals.waker(TIMER) },
        session: Session::new(shared.clone(), accepted),
        io: Io { ws, texts, bulk, flushing: false, stuck: false },
        control: Some(control),
        timer: Box::pin(sleep_until(liveness.next(now))),
        liveness,
        lazy: None,
        again: READ | WRITE | TIMER | LINK,
        closing: None,
        shared,
        config,
    };
    (link, incoming, driver)
}

struct Wakers {
    read: Waker,
    write: Waker,
    timer: Waker,
}

/// The socket and what waits to be written to it.
pub(crate) struct Io<S> {
    pub(crate) ws: WebSocketStream<S>,
    texts: mpsc::Receiver<String>,
    /// Taken only while there are no texts.
    bulk: mpsc::Receiver<String>,
    /// Something was given to the WebSocket and is not flushed yet.
    flushing: bool,
    /// The last flush found the socket full.
    stuck: bool,
}

/// Owns the socket and does all the work of a link. Resolves with the reason when the link has ended and the closing
/// handshake is over.
#[must_use = "a link does nothing unless its driver is polled"]
pub struct Driver<S> {
    io: Io<S>,
    session: Session,
    /// Until the link ends.
    control: Option<mpsc::Sender<ControlFrame>>,
    shared: Arc<Shared>,
    config: Config,
    wakers: Wakers,
    liveness: Liveness,
    timer: Pin<Box<Sleep>>,
    /// When acknowledgements that wait for company go alone.
    lazy: Option<Instant>,
    /// Work known to be left for the next round.
    again: u8,
    closing: Option<Closing>,
}

impl<S> fmt::Debug for Driver<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("liveness", &self.liveness).finish_non_exhaustive()
    }
}

impl<S> Future for Driver<S>
where
    S: AsyncRead + AsyncWrite + Pace + Unpin + Send + 'static,
{
    type Output = Closed;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Closed> {
        let this = self.get_mut();
        if this.closing.is_none()
            && let Err(why) = this.rounds(cx)
        {
            tracing::debug!(kind = why.kind(), reason = %why, "link ends");
            this.shared.finish(why.clone());
            this.session.end();
            this.control = None;
            this.closing = Some(Closing::new(why, this.config.close_timeout));
        }
        match &mut this.closing {
            Some(closing) => closing.poll(cx, &mut this.io, &this.shared),
            None => Poll::Pending,
        }
    }
}

impl<S> Driver<S>
where
    S: AsyncRead + AsyncWrite + Pace + Unpin + Send + 'static,
{
    fn rounds(&mut self, cx: &mut Context<'_>) -> Result<(), Closed> {
        let signals = self.shared.signals.clone();
        signals.begin(cx.waker());
        for _ in 0..ROUNDS {
            let work = signals.take() | std::mem::take(&mut self.again);
            self.round(cx, work)?;
            if self.again == 0 && signals.sleep() {
                return Ok(());
            }
        }
        signals.pause(std::mem::take(&mut self.again));
        cx.waker().wake_by_ref();
        Ok(())
    }

    fn round(&mut self, cx: &mut Context<'_>, work: u8) -> Result<(), Closed> {
        if work & LINK != 0
            && let Some((code, reason)) = self.shared.close_requested()
        {
            return Err(Closed::Local { code: code.into(), reason });
        }
        if work & READ != 0 {
            self.read()?;
        }
        if work & TIMER != 0 {
            self.on_time()?;
        }
        self.write(cx, work & WRITE != 0)
    }

    fn read(&mut self) -> Result<(), Closed> {
        for _ in 0..READS {
            if self.control.as_ref().is_some_and(|control| self.shared.has_to_pause(control, &self.config)) {
                return Ok(());
            }
            let mut cx = Context::from_waker(&self.wakers.read);
            let Poll::Ready(message) = Pin::new(&mut self.io.ws).poll_next(&mut cx) else { return Ok(()) };
            let message = message.transpose()?.ok_or(Closed::Lost)?;
            match message {
                Message::Binary(bytes) => self.on_binary(bytes)?,
                Message::Text(text) => self.on_control(ControlFrame::Text(text))?,
                Message::Pong(payload) => {
                    if let Some(rtt) = self.liveness.pong(&payload, Instant::now()) {
                        let nanos = u64::try_from(rtt.as_nanos()).unwrap_or(u64::MAX).max(1);
                        self.shared.counters.rtt.store(nanos, Ordering::Relaxed);
                    }
                }
                Message::Close(frame) => return Err(Closed::by_peer(frame)),
                // The WebSocket answers pings itself with its next read or write.
                Message::Ping(_) | Message::Frame(_) => {}
            }
        }
        self.again |= READ;
        Ok(())
    }

    fn on_binary(&mut self, bytes: Bytes) -> Result<(), Closed> {
        if !self.shared.is_started() {
            return self.on_control(ControlFrame::Binary(bytes));
        }
        self.check_size(bytes.len())?;
        self.session.receive(bytes)
    }

    fn on_control(&mut self, message: ControlFrame) -> Result<(), Closed> {
        let len = message.len();
        self.check_size(len)?;
        let waiting = self.shared.control_bytes.fetch_add(len, Ordering::AcqRel);
        if waiting > 0 && waiting.saturating_add(len) > self.config.control_bytes {
            return Err(Closed::ControlFlood);
        }
        match self.control.as_ref().map(|control| control.try_send(message)) {
            Some(Ok(())) => Ok(()),
            Some(Err(mpsc::error::TrySendError::Full(_))) => Err(Closed::ControlFlood),
            Some(Err(mpsc::error::TrySendError::Closed(_))) | None => {
                self.shared.control_bytes.fetch_sub(len, Ordering::AcqRel);
                Ok(())
            }
        }
    }

    /// The WebSocket checks this too, when it was made with [`Config::websocket`].
    fn check_size(&self, len: usize) -> Result<(), Closed> {
        self.shared.counters.message_in(len);
        if len > self.config.max_message {
            return Err(Closed::TooBig(format!("{len} bytes, the limit is {}", self.config.max_message)));
        }
        Ok(())
    }

    fn on_time(&mut self) -> Result<(), Closed> {
        self.check_life()?;
        loop {
            let next = self.lazy.into_iter().fold(self.liveness.next(self.io.last_progress()), Instant::min);
            if self.timer.deadline() != next {
                self.timer.as_mut().reset(next);
            }
            let mut cx = Context::from_waker(&self.wakers.timer);
            if self.timer.as_mut().poll(&mut cx).is_pending() {
                return Ok(());
            }
            // Due now: the write that follows sends it.
            let now = self.check_life()?;
            if self.lazy.is_some_and(|at| at <= now) {
                self.lazy = None;
                lock(&self.shared.output).hurry();
            }
            if let Some(ping) = self.liveness.ping(now) {
                self.io.feed(Message::Ping(Bytes::copy_from_slice(&ping)))?;
            }
        }
    }

    fn next_in_line(&self) -> Option<Arc<StreamState>> {
        lock(&self.shared.output).next()
    }

    fn check_life(&self) -> Result<Instant, Closed> {
        let now = Instant::now();
        match self.liveness.dead(self.io.last_progress(), now) {
            Some(silent) => Err(Closed::Dead(silent)),
            None => Ok(now),
        }
    }

    fn write(&mut self, cx: &mut Context<'_>, writable: bool) -> Result<(), Closed> {
        let mut socket = Context::from_waker(&self.wakers.write);
        if self.io.stuck && !writable {
            return Ok(());
        }
        loop {
            if self.io.poll_flush(&mut socket)?.is_pending() {
                return Ok(());
            }
            let texts = self.io.feed_texts(cx, &self.shared)?;
            let mut output = lock(&self.shared.output);
            if output.is_urgent() || texts && !output.is_empty() {
                let message = output.take();
                drop(output);
                self.lazy = None;
                if !message.is_empty() {
                    self.io.send(message, &self.shared)?;
                }
                // Those who waited fill the next while the socket takes this.
                while let Some(stream) = self.next_in_line() {
                    stream.take_turn();
                }
            } else {
                let waiting = !output.is_empty();
                drop(output);
                if waiting && self.lazy.is_none() {
                    self.lazy = Some(Instant::now() + LAZY);
                    self.again |= TIMER;
                }
                if !self.io.flushing {
                    return Ok(());
                }
            }
        }
    }
}

impl<S> Io<S>
where
    S: AsyncRead + AsyncWrite + Pace + Unpin + Send + 'static,
{
    /// When the peer last said or, while there is something for it, took something; the earlier of the two.
    fn last_progress(&self) -> Instant {
        let socket = self.ws.get_ref();
        socket.stuck().into_iter().fold(socket.heard(), Instant::min)
    }

    /// Gives a message to the WebSocket, which always takes it; [`poll_flush`](Self::poll_flush) has to follow.
    pub(crate) fn feed(&mut self, message: Message) -> Result<(), Closed> {
        self.flushing = true;
        Ok(Pin::new(&mut self.ws).start_send(message)?)
    }

    pub(crate) fn send(&mut self, message: Bytes, shared: &Shared) -> Result<(), Closed> {
        shared.counters.message_out(message.len());
        self.feed(Message::Binary(message))
    }

    /// Moves queued texts to the WebSocket, as many as are small together. True when there were any.
    pub(crate) fn feed_texts(&mut self, cx: &mut Context<'_>, shared: &Shared) -> Result<bool, Closed> {
        let mut bytes = 0;
        let mut any = false;
        while bytes < OUT_LIMIT
            && let Some(text) = self.next_text(cx)
        {
            any = true;
            bytes += text.len();
            shared.counters.message_out(text.len());
            self.feed(Message::text(text))?;
        }
        Ok(any)
    }

    fn next_text(&mut self, cx: &mut Context<'_>) -> Option<String> {
        for queue in [&mut self.texts, &mut self.bulk] {
            if let Poll::Ready(Some(text)) = queue.poll_recv(cx) {
                return Some(text);
            }
        }
        None
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Closed> {
        if self.flushing {
            if Pin::new(&mut self.ws).poll_flush(cx)?.is_pending() {
                self.stuck = true;
                return Ok(Poll::Pending);
            }
            self.flushing = false;
        }
        self.stuck = false;
        Ok(Poll::Ready(()))
    }

    /// The WebSocket has queued its own answer to the peer's close frame.
    pub(crate) fn reply_to_close(&mut self) {
        self.flushing = true;
    }

    /// No further text is taken; senders learn that the link has ended.
    pub(crate) fn refuse_texts(&mut self) {
        self.texts.close();
        self.bulk.close();
    }
}

impl<S> Drop for Driver<S> {
    fn drop(&mut self) {
        // Before the streams are dropped, so that they find the reason.
        self.shared.finish(Closed::Dropped);
        self.session.end();
    }
}
