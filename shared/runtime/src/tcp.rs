use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// How every TCP connection of the product is set: small writes leave at once, and a peer that is gone without a word is
/// noticed within about 30 s, however silent the connection.
pub fn tune(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5)).with_retries(3);
    SockRef::from(tcp).set_tcp_keepalive(&keepalive)
}
