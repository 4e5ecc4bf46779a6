use socket2::SockRef;
use tokio::net::UdpSocket;

/// For bursts of many clients; the kernel gives what it allows (`net.core.rmem_max`).
const RECEIVED: usize = 4 << 20;

/// Makes room for what arrives faster than it is read.
pub fn widen(socket: &UdpSocket) {
    // It works with what there is.
    let _as_far_as_allowed = SockRef::from(socket).set_recv_buffer_size(RECEIVED);
}
