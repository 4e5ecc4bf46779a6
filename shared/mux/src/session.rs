//! The yamux session of a link and the streams in it.

use std::{
    sync::{Arc, Mutex, MutexGuard, atomic::Ordering},
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::{
    closed::{Closed, OpenError},
    config::{Config, Role, Windows},
    state::{Shared, lock},
    stats::add,
    stream::MuxStream,
    transport::{Pipe, Transport},
};

pub(crate) type Opened = oneshot::Sender<Result<MuxStream, OpenError>>;

/// Incoming streams handed over in one poll, so that whoever receives them gets a turn before the queue is full.
const ACCEPTS: usize = 64;

pub(crate) struct Session {
    role: Role,
    config: Config,
    shared: Arc<Shared>,
    transport: Arc<Mutex<Transport>>,
    yamux: Option<yamux::Connection<Pipe>>,
    /// Until the link ends.
    accepted: Option<mpsc::Sender<MuxStream>>,
    opens: mpsc::Receiver<Opened>,
    /// Waits for yamux to accept one more unacknowledged stream.
    opening: Option<Opened>,
    /// Dropped streams that are not yet seen out.
    ending: Vec<u32>,
}

impl Session {
    pub(crate) fn new(
        role: Role,
        config: Config,
        shared: Arc<Shared>,
        accepted: mpsc::Sender<MuxStream>,
        opens: mpsc::Receiver<Opened>,
    ) -> Self {
        let transport = Arc::new(Mutex::new(Transport::new(shared.clone())));
        shared.unread.join(&transport);
        Self {
            role,
            config,
            shared,
            transport,
            yamux: None,
            accepted: Some(accepted),
            opens,
            opening: None,
            ending: Vec::new(),
        }
    }

    pub(crate) fn transport(&self) -> MutexGuard<'_, Transport> {
        lock(&self.transport)
    }

    /// A binary message of the peer. Poll after it.
    pub(crate) fn push(&mut self, message: Bytes) -> Result<(), Closed> {
        let Some(windows) = self.shared.windows() else {
            return Err(Closed::Protocol("stream data before streams were negotiated".to_owned()));
        };
        self.start(windows);
        self.transport().push(message);
        Ok(())
    }

    fn start(&mut self, windows: Windows) {
        if self.yamux.is_none() {
            let mode = match self.role {
                Role::Agent => yamux::Mode::Client,
                Role::ControlPlane => yamux::Mode::Server,
            };
            let pipe = Pipe(self.transport.clone());
            self.yamux = Some(yamux::Connection::new(pipe, self.config.yamux(windows), mode));
        }
    }

    /// The control plane speaks as soon as it is allowed to; the agent only after it, or when asked for a stream,
    /// because its first bytes must not overtake the message that negotiates them.
    pub(crate) fn start_if_allowed(&mut self) {
        if self.role == Role::ControlPlane
            && let Some(windows) = self.shared.windows()
        {
            self.start(windows);
        }
    }

    /// Moves frames both ways between the transport and the streams. True: there is more to do at once.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Result<bool, Closed> {
        let (Some(yamux), Some(accepted)) = (&mut self.yamux, &self.accepted) else { return Ok(false) };
        let mut more = false;
        for turn in 0.. {
            match yamux.poll_next_inbound(cx) {
                Poll::Ready(Some(Ok(stream))) => accept(stream, &self.transport, &self.shared, &self.config, accepted)?,
                Poll::Ready(Some(Err(error))) => return Err(error.into()),
                Poll::Ready(None) => {
                    return Err(Closed::Protocol("the peer ended its yamux session with an error".to_owned()));
                }
                Poll::Pending => break,
            }
            if turn >= ACCEPTS {
                more = true;
                break;
            }
        }
        let mut transport = lock(&self.transport);
        if transport.flooded {
            return Err(Closed::Protocol("more pings than answers fit".to_owned()));
        }
        match transport.judged {
            None => {}
            Some(1) => return Err(Closed::Protocol("yamux frames that contradict each other".to_owned())),
            Some(_) => return Err(Closed::AcceptFlood),
        }
        if transport.has_input() && !more {
            // It stops reading only to say so, and cannot while the peer takes nothing.
            return Err(Closed::Protocol("yamux frames that contradict each other".to_owned()));
        }
        self.ending.append(&mut lock(&self.shared.dropped));
        self.ending.retain(|stream| !transport.reap(*stream));
        self.shared.counters.open_streams.store(transport.open_streams(), Ordering::Relaxed);
        drop(transport);
        self.shared.unread.relieve();
        Ok(more)
    }

    /// Answers what [`Link::open`](crate::Link::open) asks for; `streams` is woken when yamux can go on opening.
    /// True: poll, because only that lets a new stream wake us.
    pub(crate) fn poll_opens(&mut self, cx: &mut Context<'_>, streams: &mut Context<'_>) -> Result<bool, Closed> {
        let mut any = false;
        loop {
            let reply = match self.opening.take() {
                Some(reply) => reply,
                None => match self.opens.poll_recv(cx) {
                    Poll::Ready(Some(reply)) => reply,
                    Poll::Ready(None) | Poll::Pending => return Ok(any),
                },
            };
            if reply.is_closed() {
                continue;
            }
            let Some(windows) = self.shared.windows() else {
                let _ = reply.send(Err(OpenError::NotStarted));
                continue;
            };
            self.start(windows);
            let Some(yamux) = &mut self.yamux else { return Ok(any) };
            let refusal = {
                let transport = lock(&self.transport);
                if transport.going_away {
                    Some(OpenError::GoingAway)
                } else if !transport.may_open(self.config.max_streams()) {
                    Some(OpenError::TooManyStreams(self.config.max_streams()))
                } else {
                    None
                }
            };
            if let Some(refusal) = refusal {
                let _ = reply.send(Err(refusal));
                continue;
            }
            match yamux.poll_new_outbound(streams) {
                Poll::Ready(Ok(stream)) => {
                    any = true;
                    let mut transport = lock(&self.transport);
                    let state = transport.open(stream.id().val());
                    self.shared.counters.open_streams.store(transport.open_streams(), Ordering::Relaxed);
                    drop(transport);
                    add(&self.shared.counters.opened, 1);
                    // The asker may be gone; the stream is then dropped, and with it its entry.
                    let _ = reply.send(Ok(MuxStream::new(stream, state)));
                }
                Poll::Ready(Err(error)) => {
                    let closed = Closed::from(error);
                    let _ = reply.send(Err(OpenError::Closed(closed.clone())));
                    return Err(closed);
                }
                Poll::Pending => {
                    self.opening = Some(reply);
                    return Ok(any);
                }
            }
        }
    }

    /// Ends every stream; what they have received stays readable.
    pub(crate) fn end(&mut self) {
        self.yamux = None;
        self.transport().cut();
        self.accepted = None;
        self.opening = None;
        self.opens.close();
        self.shared.counters.open_streams.store(0, Ordering::Relaxed);
    }
}

fn accept(
    stream: yamux::Stream,
    transport: &Mutex<Transport>,
    shared: &Arc<Shared>,
    config: &Config,
    accepted: &mpsc::Sender<MuxStream>,
) -> Result<(), Closed> {
    let (state, fits) = {
        let mut transport = lock(transport);
        (transport.open(stream.id().val()), transport.within(config.max_streams()))
    };
    let stream = MuxStream::new(stream, state);
    if !fits {
        // The two ends may differ for a moment about how many are open, so this is no reason to end the link.
        add(&shared.counters.refused, 1);
        return Ok(());
    }
    match accepted.try_send(stream) {
        Ok(()) => add(&shared.counters.accepted, 1),
        Err(mpsc::error::TrySendError::Closed(_)) => add(&shared.counters.refused, 1),
        Err(mpsc::error::TrySendError::Full(_)) => return Err(Closed::AcceptFlood),
    }
    Ok(())
}
