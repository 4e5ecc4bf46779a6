//! The handle that services hold.

use std::{future::Future, sync::Arc};

use bytes::Bytes;
use opentelemetry::metrics::Meter;
use protocol::StreamKind;
use tokio::sync::watch;

use crate::{
    BusStream, ConnectError, OpenError, OpenHeader, Options, Request, RequestError, ServeError, Service, Serving,
    Stats,
    local::{LocalEnd, LocalListener},
    metrics,
    nats::{NatsBus, NatsListener},
    request,
    serving::Intake,
};

/// Whether the bus can be used now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    Connected,
    /// It is being tried again; the reason is the last failure.
    Disconnected {
        reason: String,
    },
}

/// One instance's end of the bus. Clones share it; when the last one is dropped (listeners and servings count) its
/// connection closes and its streams are reset.
#[derive(Clone, Debug)]
pub struct Bus(Arc<Backend>);

#[derive(Debug)]
enum Backend {
    Nats(Box<NatsBus>),
    Local(LocalEnd),
}

impl Bus {
    /// Begins to connect and returns at once: a bus that is away is a state ([`status`](Self::status)), not an error,
    /// and it is tried until it is there.
    ///
    /// # Errors
    /// When the options cannot work: the URL, or a file that cannot be read.
    pub async fn connect(options: &Options, service: Service) -> Result<Self, ConnectError> {
        NatsBus::connect(options, service).await.map(|bus| Self(Arc::new(Backend::Nats(Box::new(bus)))))
    }

    pub(crate) fn local(end: LocalEnd) -> Self {
        Self(Arc::new(Backend::Local(end)))
    }

    /// Asks one instance of the service that serves `R`.
    ///
    /// # Errors
    /// See [`RequestError`]; `Typed` is the handler's own. Everything but `Timeout` is known at once.
    pub async fn request<R: Request>(&self, request: &R) -> Result<R::Reply, RequestError<R::Error>> {
        match &*self.0 {
            Backend::Nats(bus) => bus.request(request).await,
            Backend::Local(end) => end.request(request).await,
        }
    }

    /// Serves `R`, sharing the requests with the service's other instances. Each request runs in its own task, and is
    /// answered even if `handler` panics or is stopped.
    ///
    /// # Errors
    /// When the bus is closed, or known to deny the subject. A NATS server that denies it says so later, in the log.
    pub async fn serve<R, H, Fut>(&self, handler: H) -> Result<Serving, ServeError>
    where
        R: Request,
        H: Fn(R) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R::Reply, R::Error>> + Send + 'static,
    {
        let intake = match &*self.0 {
            Backend::Nats(bus) => Intake::Nats(bus.intake::<R>().await?),
            Backend::Local(end) => Intake::Local(end.intake::<R>()?),
        };
        Ok(Serving::start(self.clone(), intake, request::erase(handler)))
    }

    /// Opens a byte stream to one instance that listens for `kind`. `first` are the stream's first bytes; up to 32 KiB
    /// of them travel with the open. Completes when the instance has accepted.
    ///
    /// # Errors
    /// See [`OpenError`]; all but `Timeout` (3 s) are known at once. Whether an instance may have got the first bytes
    /// says [`OpenError::is_unsent`].
    pub async fn open(&self, kind: StreamKind, header: OpenHeader, first: Bytes) -> Result<BusStream, OpenError> {
        match &*self.0 {
            Backend::Nats(bus) => bus.open(kind, &header, first).await,
            Backend::Local(end) => end.open(kind, header, first).await,
        }
    }

    /// Listens for streams of `kind`, sharing them with the service's other instances.
    ///
    /// # Errors
    /// When the bus is closed, or known to deny the subject.
    pub async fn listen(&self, kind: StreamKind) -> Result<Listener, ServeError> {
        let source = match &*self.0 {
            Backend::Nats(bus) => Source::Nats(Box::new(bus.listen(kind).await?)),
            Backend::Local(end) => Source::Local(end.listen(kind)?),
        };
        Ok(Listener { source, _bus: self.clone() })
    }

    /// Follows whether the bus works.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        match &*self.0 {
            Backend::Nats(bus) => bus.status(),
            Backend::Local(end) => end.status(),
        }
    }

    /// Reports whether the bus works, else why not: now and at each change, until the bus is closed.
    pub async fn watch_status(self, mut report: impl FnMut(Result<(), String>)) {
        let mut status = self.status();
        loop {
            report(match &*status.borrow_and_update() {
                Status::Connected => Ok(()),
                Status::Disconnected { reason } => Err(format!("bus: {reason}")),
            });
            if status.changed().await.is_err() {
                return;
            }
        }
    }

    /// What this instance's streams hold and have done.
    #[must_use]
    pub fn stats(&self) -> Stats {
        match &*self.0 {
            Backend::Nats(bus) => bus.stats(),
            Backend::Local(end) => end.stats(),
        }
    }

    /// Shows [`stats`](Self::stats) as the metrics `pipeops_agent_bus_*`. Does not keep the bus alive. Once per process:
    /// a second instance's would have the same names.
    pub fn register_metrics(&self, meter: &Meter) {
        let ledger = match &*self.0 {
            Backend::Nats(bus) => bus.ledger(),
            Backend::Local(end) => end.ledger(),
        };
        metrics::register(ledger, meter);
    }

    /// Resets the streams, sends what was written (within a second) and closes, for all clones.
    pub async fn close(self) {
        match &*self.0 {
            Backend::Nats(bus) => bus.close().await,
            Backend::Local(end) => end.close("bus closed by the peer"),
        }
    }
}

/// Streams of one kind that reach this instance.
#[derive(Debug)]
pub struct Listener {
    source: Source,
    _bus: Bus,
}

#[derive(Debug)]
enum Source {
    Nats(Box<NatsListener>),
    Local(LocalListener),
}

impl Listener {
    /// The next stream, which is accepted already; reset it to refuse. None when the bus is closed or the listener was
    /// drained. Nothing is lost when the future is dropped.
    pub async fn accept(&mut self) -> Option<(OpenHeader, BusStream)> {
        match &mut self.source {
            Source::Nats(listener) => listener.accept().await,
            Source::Local(listener) => listener.recv().await,
        }
    }

    /// Leaves the queue group: for a shutdown that finishes what it has. Then `accept` until it gives None.
    pub async fn drain(&mut self) {
        match &mut self.source {
            Source::Nats(listener) => listener.drain().await,
            Source::Local(listener) => listener.close(),
        }
    }
}
