//! Connections to Services for the control plane's TCP and UDP tunnels: straight, by their DNS names, without a hop.
//!
//! ```text
//!   yamux stream (tcp.rs, udp.rs) ──┐
//!                                   ├─► Tunnels: access, limits, names ─► Service
//!   messages (proxied) ─────────────┘
//! ```

mod forwards;
mod tcp;
mod udp;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use duplex::{Duplex as _, Relayed, Socket};
use exchange::Upgraded;
use mux::MuxStream;
use protocol::config::Forward;
use protocol::stream::StreamAnswer;
use protocol::{StreamHeader, StreamKind, Target};
use targets::{Forbidden, Names, Unreachable};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

pub use self::forwards::Forwards;
use crate::metrics::{OpenTunnel, TunnelFailure, TunnelMetrics};
use crate::options;
use crate::refusal::DRAIN_TIMEOUT;

/// Opens tunnels. Cheap to clone; the limits are those of all clones together.
#[derive(Clone, Debug)]
pub struct Tunnels {
    pub options: Arc<options::Tunnels>,
    forwards: Forwards,
    names: Names,
    tcp: Kind,
    udp: Kind,
    /// What the control plane wishes for: Services, and how long their tunnels may stand idle.
    wished: Arc<RwLock<HashMap<(StreamKind, Target), Duration>>>,
}

/// What tunnels of one kind share.
#[derive(Clone, Debug)]
struct Kind {
    room: Arc<Semaphore>,
    metrics: Arc<TunnelMetrics>,
}

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    #[error("tunnels are switched off in this cluster (tunnels.enabled)")]
    Disabled,
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    #[error("this forward is not of that protocol (tunnel.forwards)")]
    OtherKind,
    #[error("as many {kind} tunnels are open as this agent takes (tunnels.{setting})")]
    TooMany { kind: &'static str, setting: &'static str },
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
}

/// A connection or session, and its place among those that may be open.
#[derive(Debug)]
pub struct Tunnel<S> {
    pub socket: S,
    pub open: OpenTunnel,
    /// Without anything for this long it is over; 0: never.
    pub idle_timeout: Duration,
    _place: OwnedSemaphorePermit,
}

/// How a stream ended that carried a tunnel.
#[derive(Debug, thiserror::Error)]
pub enum CarryError {
    #[error("no tunnel to {target}")]
    Tunnel { target: Target, source: TunnelError },
    #[error("given up by the control plane: {0}")]
    Link(#[source] std::io::Error),
    #[error("the connection to {target} broke")]
    Service { target: Target, source: std::io::Error },
    #[error("nothing moved in the tunnel to {target} for as long as it may stand idle")]
    Idle { target: Target },
}

impl Tunnels {
    /// `names` knows where the `forwards` lead as well.
    pub fn new(
        options: &options::Tunnels,
        forwards: Forwards,
        names: Names,
        tcp: Arc<TunnelMetrics>,
        udp: Arc<TunnelMetrics>,
    ) -> Self {
        let kind = |places: usize, metrics| Kind {
            room: Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS))),
            metrics,
        };
        Self {
            tcp: kind(options.tcp.max_connections, tcp),
            udp: kind(options.udp.max_sessions, udp),
            options: Arc::new(options.clone()),
            forwards,
            names,
            wished: Arc::default(),
        }
    }

    /// A TCP connection to the Service.
    pub async fn connect_tcp(&self, target: &Target) -> Result<Tunnel<Socket<TcpStream>>, TunnelError> {
        let place = self.place(StreamKind::Tcp, target)?;
        let connected = self.names.connect(target, self.options.tcp.connection_timeout.get()).await;
        let tcp = connected.inspect_err(|_| self.tcp.metrics.failed(TunnelFailure::Dial))?;
        let idle_timeout = self.idle_timeout(StreamKind::Tcp, target, self.options.tcp.idle_timeout.get());
        Ok(Tunnel { socket: Socket::new(tcp), open: self.tcp.metrics.opened(), idle_timeout, _place: place })
    }

    /// A UDP socket that talks with the Service only.
    pub async fn connect_udp(&self, target: &Target) -> Result<Tunnel<UdpSocket>, TunnelError> {
        let place = self.place(StreamKind::Udp, target)?;
        let connected = self.names.connect_udp(target, self.options.tcp.connection_timeout.get()).await;
        let socket = connected.inspect_err(|_| self.udp.metrics.failed(TunnelFailure::Dial))?;
        let idle_timeout = self.idle_timeout(StreamKind::Udp, target, self.options.udp.session_timeout.get());
        Ok(Tunnel { socket, open: self.udp.metrics.opened(), idle_timeout, _place: place })
    }

    /// Whether tunnels of that kind are opened there at all.
    pub fn check(&self, kind: StreamKind, target: &Target) -> Result<(), TunnelError> {
        if let Some((own, _)) = self.forwards.of(target) {
            return if own == kind { Ok(()) } else { Err(TunnelError::OtherKind) };
        }
        if self.options.enabled { Ok(self.options.access.check(target)?) } else { Err(TunnelError::Disabled) }
    }

    /// For tunnels that are opened from now on: how long they may stand idle, unless the settings say less.
    pub fn wish(&self, forwards: &[Forward]) {
        let idle = |forward: &Forward| {
            let seconds = forward.idle_timeout_seconds.filter(|seconds| *seconds > 0)?;
            Some(((forward.kind(), forward.target.clone()), Duration::from_secs(seconds)))
        };
        *self.wished.write().unwrap_or_else(PoisonError::into_inner) = forwards.iter().filter_map(idle).collect();
    }

    fn idle_timeout(&self, kind: StreamKind, target: &Target, set: Duration) -> Duration {
        let set = self.forwards.of(target).map_or(set, |(_, timeout)| timeout);
        let wished = self.wished.read().unwrap_or_else(PoisonError::into_inner);
        match wished.get(&(kind, target.clone())) {
            Some(wished) if set.is_zero() => *wished,
            Some(wished) => set.min(*wished),
            None => set,
        }
    }

    /// Of a session that was not even begun, or of a datagram.
    pub fn udp_failed(&self, why: TunnelFailure) {
        self.udp.metrics.failed(why);
    }

    fn place(&self, kind: StreamKind, target: &Target) -> Result<OwnedSemaphorePermit, TunnelError> {
        let (of_kind, name, setting) = match kind {
            StreamKind::Udp => (&self.udp, "UDP", "udp.max_sessions"),
            _ => (&self.tcp, "TCP", "tcp.max_connections"),
        };
        self.check(kind, target).inspect_err(|_| of_kind.metrics.failed(TunnelFailure::Forbidden))?;
        Arc::clone(&of_kind.room).try_acquire_owned().map_err(|_| {
            of_kind.metrics.failed(TunnelFailure::TooMany);
            TunnelError::TooMany { kind: name, setting }
        })
    }

    /// Carries a stream of kind `tcp` or `udp` to its end. `answers`: its header has version 2, so it is told whether there
    /// is a connection; a stream of version 1 is reset when there is none. `report` is told what the stream has carried.
    pub async fn carry(
        &self,
        header: &StreamHeader,
        target: Target,
        stream: MuxStream,
        first: Bytes,
        answers: bool,
        report: impl Fn(Relayed) + Send,
    ) -> Result<(), CarryError> {
        let mut stream = Upgraded { io: stream, read_ahead: first };
        if header.kind == StreamKind::Udp {
            let tunnel = dial(self.connect_udp(&target), &mut stream.io).await?;
            let tunnel = answer(tunnel, &target, &mut stream.io, answers).await?;
            return udp::carry(tunnel, stream, answers, &self.options.udp, report).await.map_err(CarryError::Link);
        }
        let tunnel = dial(self.connect_tcp(&target), &mut stream.io).await?;
        let tunnel = answer(tunnel, &target, &mut stream.io, answers).await?;
        tcp::carry(tunnel, stream, &target, report).await
    }
}

/// Dials unless the control plane gives up meanwhile.
async fn dial<S>(
    dialling: impl Future<Output = Result<Tunnel<S>, TunnelError>>,
    stream: &mut MuxStream,
) -> Result<Result<Tunnel<S>, TunnelError>, CarryError> {
    tokio::select! {
        dialled = dialling => Ok(dialled),
        gone = std::future::poll_fn(|cx| stream.poll_reset(cx)) => Err(CarryError::Link(gone)),
    }
}

/// Says whether there is a tunnel, where that is understood.
async fn answer<S>(
    dialled: Result<Tunnel<S>, TunnelError>,
    target: &Target,
    stream: &mut MuxStream,
    answers: bool,
) -> Result<Tunnel<S>, CarryError> {
    match dialled {
        Ok(tunnel) => {
            if answers {
                stream.write_all(&StreamAnswer::Connected.encode()).await.map_err(CarryError::Link)?;
            }
            Ok(tunnel)
        }
        Err(source) => {
            if answers {
                let reason = StreamAnswer::Refused(runtime::error_text(&source));
                stream.write_all(&reason.encode()).await.map_err(CarryError::Link)?;
                stream.shutdown().await.map_err(CarryError::Link)?;
                // What the client sends is read and dropped, so that the answer is not overtaken by a reset.
                let rest = async { while let Ok(Some(_)) = stream.chunk().await {} };
                let _late = timeout(DRAIN_TIMEOUT, rest).await;
            }
            Err(CarryError::Tunnel { target: target.clone(), source })
        }
    }
}
