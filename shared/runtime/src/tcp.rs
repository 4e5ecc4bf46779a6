use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// How every TCP connection of the product is set: small writes leave at once, and a peer that is gone without a word is
/// noticed within about 30 s on a silent connection. While something sent is not acknowledged, the kernel's retransmissions
/// decide (about 15 minutes): a shorter limit on those would also end peers that are alive and read slowly.
pub fn tune(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5)).with_retries(3);
    SockRef::from(tcp).set_tcp_keepalive(&keepalive)
}

/// Whether the peer sees a reset, and no end of what it was sent, when the connection is dropped.
pub fn reset_when_dropped(tcp: &TcpStream, reset: bool) {
    // A connection that is gone already needs nothing.
    let _gone = SockRef::from(tcp).set_linger(reset.then_some(Duration::ZERO));
}
