use datagrams::Idle;
use duplex::{Broken, Relayed, Socket, relay};
use exchange::Upgraded;
use mux::MuxStream;
use protocol::Target;
use tokio::net::TcpStream;

use super::{CarryError, Tunnel};
use crate::metrics::TunnelFailure;

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
