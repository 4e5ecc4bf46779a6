use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use duplex::{Broken, Relayed, Socket, relay};
use exchange::Upgraded;
use mux::MuxStream;
use protocol::Target;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use super::{CarryError, Tunnel};
use crate::metrics::TunnelFailure;

/// Knows when something moved last.
#[derive(Debug)]
pub struct Idle {
    last: Mutex<Instant>,
    limit: Duration,
}

impl Idle {
    /// With a limit of 0 it never comes.
    pub fn new(limit: Duration) -> Self {
        Self { last: Mutex::new(Instant::now()), limit }
    }

    pub fn moved(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Resolves once nothing has moved for the limit.
    pub async fn too_long(&self) {
        if self.limit.is_zero() {
            std::future::pending::<()>().await;
        }
        loop {
            let until = *self.last.lock().unwrap_or_else(PoisonError::into_inner) + self.limit;
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }
}

/// Bytes both ways; the end of each direction is passed on by itself.
pub(super) async fn carry(
    tunnel: Tunnel<Socket<TcpStream>>,
    stream: Upgraded<MuxStream>,
    target: &Target,
    report: impl Fn(Relayed),
) -> Result<(), CarryError> {
    let Tunnel { socket, open, idle_timeout, _place } = tunnel;
    let idle = Idle::new(idle_timeout);
    let carrying = relay(stream, socket, |carried| {
        idle.moved();
        open.incoming(carried.from_left);
        open.outgoing(carried.from_right);
        report(carried);
    });
    tokio::select! {
        ended = carrying => ended.map_err(|broken| match broken {
            Broken::Left(error) => CarryError::Link(error),
            Broken::Right(source) => {
                open.failed(TunnelFailure::Copy);
                CarryError::Service { target: target.clone(), source }
            }
        }),
        () = idle.too_long() => {
            open.failed(TunnelFailure::Idle);
            Err(CarryError::Idle { target: target.clone() })
        }
    }
}
