//! The header of the PROXY protocol, version 2, which tells a Service who its client is:
//! <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>, section 2.2.

use std::net::{IpAddr, SocketAddr};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, a connection on behalf of somebody.
const PROXY: u8 = 0x21;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// For a TCP connection of `client` to `server`.
pub fn header(client: SocketAddr, server: SocketAddr) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    header.push(PROXY);
    match (client.ip().to_canonical(), server.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header.extend([TCP4, 0, 12]);
            header.extend(from.octets());
            header.extend(to.octets());
        }
        (from, to) => {
            let octets = |ip| match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                IpAddr::V6(ip) => ip.octets(),
            };
            header.extend([TCP6, 0, 36]);
            header.extend(octets(from));
            header.extend(octets(to));
        }
    }
    header.extend(client.port().to_be_bytes());
    header.extend(server.port().to_be_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_as_the_specification_has_it() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let signature = [0x0D, 0x0A, 0x0D, 0x0A, 0x00, 0x0D, 0x0A, 0x51, 0x55, 0x49, 0x54, 0x0A];
        let v4 = header(address("[::ffff:192.0.2.7]:50000"), address("198.51.100.1:443"));
        let rest = [0x21, 0x11, 0, 12, 192, 0, 2, 7, 198, 51, 100, 1, 0xC3, 0x50, 0x01, 0xBB];
        assert_eq!(v4, [&signature[..], &rest].concat());
        let v6 = header(address("[2001:db8::7]:1"), address("[2001:db8::1]:2"));
        assert_eq!((v6.len(), &v6[12..16]), (52, &[0x21, 0x21, 0, 36][..]));
        assert_eq!(&v6[16..18], [0x20, 0x01]);
        assert_eq!(&v6[48..], [0, 1, 0, 2]);
    }
}
