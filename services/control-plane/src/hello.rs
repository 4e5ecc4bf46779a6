//! Whom a TLS connection is for, before anybody answers it.

use std::io;
use std::time::Duration;

use rustls::server::Acceptor;
use tokio::net::TcpStream;
use tokio::time::sleep;

/// Largest first message that is looked at: a TLS record.
const LARGEST: usize = 16 * 1024 + 5;
/// A message of several packets: that more of it has come does not show while the first lies unread. One that takes its time
/// is looked at ever less often.
const AGAIN: Duration = Duration::from_millis(2);
const SELDOM: Duration = Duration::from_millis(250);

/// The name that the client asks for, in lower case; its message stays unread. None where it asks for none, or does not speak
/// TLS. Waits for the message as long as the client takes.
///
/// # Errors
/// Where the connection breaks.
pub async fn server_name(tcp: &TcpStream) -> io::Result<Option<String>> {
    let mut buffer = vec![0; LARGEST];
    let (mut seen, mut wait) = (0, AGAIN);
    loop {
        let length = tcp.peek(&mut buffer).await?;
        if length == 0 {
            return Ok(None);
        }
        if length > seen {
            (seen, wait) = (length, AGAIN);
            let mut acceptor = Acceptor::default();
            let mut come = buffer.get(..length).unwrap_or_default();
            acceptor.read_tls(&mut come)?;
            match acceptor.accept() {
                Ok(Some(accepted)) => {
                    return Ok(accepted.client_hello().server_name().map(str::to_ascii_lowercase));
                }
                Ok(None) if length < LARGEST => {}
                Ok(None) | Err(_) => return Ok(None),
            }
        }
        sleep(wait).await;
        wait = (2 * wait).min(SELDOM);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{ClientConfig, ClientConnection, RootCertStore};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    fn hello(name: &'static str) -> Vec<u8> {
        let config = ClientConfig::builder_with_provider(runtime::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let mut client = ClientConnection::new(Arc::new(config), name.try_into().unwrap()).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        hello
    }

    async fn of(pieces: &[&[u8]]) -> (Option<String>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.set_nodelay(true).unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let sending = async {
            for piece in pieces {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            client.shutdown().await.unwrap();
        };
        let (name, ()) = tokio::join!(server_name(&server), sending);
        let mut unread = Vec::new();
        server.read_to_end(&mut unread).await.unwrap();
        (name.unwrap(), unread)
    }

    #[tokio::test]
    async fn the_name_is_read_however_the_message_comes_and_the_message_stays() {
        let hello = hello("Shop.example.com");
        let (first, rest) = hello.split_at(hello.len() / 2);
        let (one, others) = first.split_at(1);
        for pieces in [&[&hello[..]][..], &[first, rest], &[one, others, rest]] {
            assert_eq!(of(pieces).await, (Some("shop.example.com".to_owned()), hello.clone()));
        }
    }

    #[tokio::test]
    async fn what_is_no_tls_or_has_no_name_is_left_to_others() {
        let request = b"GET / HTTP/1.1\r\n\r\n";
        assert_eq!(of(&[request]).await, (None, request.to_vec()));
        assert_eq!(of(&[&hello("192.0.2.1")]).await.0, None);
        assert_eq!(of(&[]).await.0, None);
    }
}
