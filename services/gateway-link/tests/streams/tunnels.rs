//! Tunnels: streams straight to Services.

use std::io::ErrorKind;
use std::net::SocketAddr;

use bus::Options;
use bytes::BytesMut;
use mux::MuxStream;
use protocol::stream::{Datagrams, put_datagram};
use protocol::{StreamAnswer, StreamKind};
use targets::Names;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

use crate::harness::{ControlPlane, header, soon};
use crate::path_with;

const DB: &str = "shop/db:5432";

async fn cluster(services: &[(&str, SocketAddr)]) -> (ControlPlane, JoinSet<()>, bus::Bus) {
    let names = services.iter().map(|(name, address)| ((*name).to_owned(), *address));
    path_with(&Options::default(), Names::table(names)).await
}

async fn answer(stream: &mut MuxStream) -> StreamAnswer {
    let mut read = Vec::new();
    loop {
        read.push(soon("an answer", stream.read_u8()).await.unwrap());
        if let Some((answer, length)) = StreamAnswer::decode(&read).unwrap() {
            assert_eq!(length, read.len());
            return answer;
        }
    }
}

#[tokio::test]
async fn a_tcp_tunnel_carries_each_direction_to_its_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (control_plane, _agent, _bus) = cluster(&[(DB, listener.local_addr().unwrap())]).await;
    let header = header(StreamKind::Tcp, Some(DB));
    for (bytes, answers) in [(header.encode_v1().unwrap(), false), (header.encode_v2(), true)] {
        // What comes with the header is not lost.
        let mut near = control_plane.open(&bytes, b"first").await;
        let (mut far, _) = soon("the connection", listener.accept()).await.unwrap();
        if answers {
            assert_eq!(answer(&mut near).await, StreamAnswer::Connected);
        }
        near.write_all(b" and more").await.unwrap();
        near.shutdown().await.unwrap();
        let mut got = String::new();
        soon("the end of one direction", far.read_to_string(&mut got)).await.unwrap();
        assert_eq!(got, "first and more");
        let back = vec![7; 1_000_000];
        far.write_all(&back).await.unwrap();
        far.shutdown().await.unwrap();
        let mut got = Vec::new();
        soon("the other", near.read_to_end(&mut got)).await.unwrap();
        assert!(got == back, "{}", got.len());
    }
}

#[tokio::test]
async fn a_service_that_speaks_first_is_heard() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (control_plane, _agent, _bus) = cluster(&[(DB, listener.local_addr().unwrap())]).await;
    let mut near = control_plane.open(&header(StreamKind::Tcp, Some(DB)).encode_v1().unwrap(), b"").await;
    let (mut far, _) = soon("the connection", listener.accept()).await.unwrap();
    far.write_all(b"220 welcome").await.unwrap();
    let mut got = [0; 11];
    soon("the greeting", near.read_exact(&mut got)).await.unwrap();
    assert_eq!(&got, b"220 welcome");
    // When one side is gone, so is the other.
    drop(near);
    let mut rest = Vec::new();
    soon("the end", far.read_to_end(&mut rest)).await.ok();
}

#[tokio::test]
async fn a_tunnel_that_is_not_made_is_refused_in_words_or_reset() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (control_plane, _agent, _bus) = cluster(&[(DB, gone), ("kube-system/dns:53", gone)]).await;
    for (kind, target, said) in [
        (StreamKind::Tcp, DB, "cannot connect to db.shop.svc"),
        (StreamKind::Tcp, "shop/other:1", "no address is known for other.shop.svc"),
        (StreamKind::Udp, "shop/other:1", "no address is known for other.shop.svc"),
        (StreamKind::Tcp, "kube-system/dns:53", "kube-system/*"),
        (StreamKind::Udp, "kube-system/dns:53", "kube-system/*"),
        (StreamKind::Tcp, "default/kubernetes:443", "default/kubernetes"),
    ] {
        let header = header(kind, Some(target));
        let mut near = control_plane.open(&header.encode_v2(), b"first").await;
        let StreamAnswer::Refused(reason) = answer(&mut near).await else { panic!("{target} was connected") };
        assert!(reason.contains(said), "{reason}");
        let mut rest = Vec::new();
        assert_eq!(soon("a clean end", near.read_to_end(&mut rest)).await.unwrap(), 0);
        let mut near = control_plane.open(&header.encode_v1().unwrap(), b"first").await;
        let error = soon("a reset", near.read_u8()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
}

/// The next datagrams of a stream.
async fn datagrams(stream: &mut MuxStream, reader: &mut Datagrams, count: usize) -> Vec<Vec<u8>> {
    let mut got = Vec::new();
    while got.len() < count {
        match reader.next() {
            Some(datagram) => got.push(datagram.to_vec()),
            None => reader.push(&soon("a datagram", stream.chunk()).await.unwrap().expect("no end")),
        }
    }
    got
}

#[tokio::test]
async fn datagrams_keep_their_bounds_and_sessions_are_apart() {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (control_plane, _agent, _bus) = cluster(&[("shop/dns:53", server.local_addr().unwrap())]).await;
    let sent: Vec<Vec<u8>> = vec![b"one".to_vec(), Vec::new(), vec![3; 60_000], b"four".to_vec()];
    let mut sessions = Vec::new();
    let mut buffer = vec![0; 65536];
    for n in 0..3u8 {
        let mut near = control_plane.open(&header(StreamKind::Udp, Some("shop/dns:53")).encode_v2(), b"").await;
        assert_eq!(answer(&mut near).await, StreamAnswer::Connected);
        let mut out = BytesMut::new();
        for datagram in sent.iter().chain([&vec![n]]) {
            assert!(put_datagram(&mut out, datagram));
        }
        near.write_all(&out).await.unwrap();
        let mut from = None;
        for wanted in sent.iter().chain([&vec![n]]) {
            let (length, address) = soon("a datagram", server.recv_from(&mut buffer)).await.unwrap();
            assert!(buffer[..length] == **wanted, "{length}");
            assert_eq!(*from.get_or_insert(address), address);
        }
        sessions.push((near, from.unwrap(), Datagrams::default()));
    }
    for (n, (_, address, _)) in sessions.iter().enumerate().rev() {
        for datagram in [&b"to"[..], b"", &[u8::try_from(n).unwrap(); 2000]] {
            server.send_to(datagram, address).await.unwrap();
        }
    }
    for (n, (near, _, reader)) in sessions.iter_mut().enumerate() {
        let wanted = [b"to".to_vec(), Vec::new(), vec![u8::try_from(n).unwrap(); 2000]];
        assert_eq!(datagrams(near, reader, 3).await, wanted);
    }
}

#[tokio::test]
async fn a_port_that_refuses_datagrams_harms_no_session() {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    let (control_plane, _agent, _bus) = cluster(&[("shop/dns:53", address)]).await;
    let mut near =
        control_plane.open(&header(StreamKind::Udp, Some("shop/dns:53")).encode_v1().unwrap(), b"hello").await;
    let mut buffer = [0; 64];
    let (length, from) = soon("the first", server.recv_from(&mut buffer)).await.unwrap();
    assert_eq!(&buffer[..length], b"hello");
    drop(server);
    // To nobody: the kernel reports it to the session's socket, which goes on.
    near.write_all(b"lost").await.unwrap();
    let server = loop {
        if let Ok(server) = UdpSocket::bind(address).await {
            break server;
        }
    };
    let answered = async {
        loop {
            server.send_to(b"back", from).await.unwrap();
            let read = tokio::time::timeout(std::time::Duration::from_millis(50), near.read(&mut buffer));
            if let Ok(length) = read.await {
                return length.unwrap();
            }
        }
    };
    let length = soon("an answer", answered).await;
    assert!(buffer[..length].starts_with(b"back"), "{:?}", &buffer[..length]);
}

/// `http` goes the way of `kube`, and is named in the answer when nobody takes it.
#[tokio::test]
async fn requests_for_services_go_over_the_bus() {
    let (control_plane, _agent, executor) = cluster(&[]).await;
    let bytes = header(StreamKind::Http, Some("shop/web:80")).encode_v2();
    let mut near = control_plane.open(&bytes, b"GET / HTTP/1.1\r\n\r\n").await;
    near.shutdown().await.unwrap();
    let mut said = String::new();
    soon("the refusal", near.read_to_string(&mut said)).await.unwrap();
    assert!(said.starts_with("HTTP/1.1 503 ") && said.contains("did not reach Service shop/web:80"), "{said}");

    let mut listener = executor.listen(StreamKind::Http).await.unwrap();
    let mut near = control_plane.open(&bytes, b"GET / HTTP/1.1\r\n\r\n").await;
    let (opened, mut far) = soon("the stream", listener.accept()).await.unwrap();
    assert_eq!(opened.target.as_deref(), Some("shop/web:80"));
    far.write_all(b"answer").await.unwrap();
    far.shutdown().await.unwrap();
    near.shutdown().await.unwrap();
    said.clear();
    soon("the answer", near.read_to_string(&mut said)).await.unwrap();
    assert_eq!(said, "answer");
}
