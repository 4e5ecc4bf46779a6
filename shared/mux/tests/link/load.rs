//! Much at once: bulk, many streams, readers that do not read.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use mux::{Config, OpenError, Unread, Windows};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};

use crate::{
    harness::{End, ends, ends_with, handshake, pattern, soon, stream, until, within},
    streams::no_streams_left,
};

async fn write_pattern(stream: &mut (impl AsyncWriteExt + Unpin), total: u64) {
    let mut buf = vec![0; 64 * 1024];
    let mut offset = 0;
    while offset < total {
        pattern(offset, &mut buf);
        stream.write_all(&buf).await.unwrap();
        offset += buf.len() as u64;
    }
    stream.shutdown().await.unwrap();
}

async fn check_pattern(stream: &mut (impl AsyncReadExt + Unpin), total: u64) {
    let mut buf = vec![0; 64 * 1024];
    let mut expected = buf.clone();
    let mut offset = 0;
    loop {
        let n = stream.read(&mut buf).await.unwrap();
        if n == 0 {
            break;
        }
        pattern(offset, &mut expected[..n]);
        assert!(buf[..n] == expected[..n], "wrong bytes after {offset}");
        offset += n as u64;
    }
    assert_eq!(offset, total);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quarter_of_a_gibibyte_each_way_on_one_stream() {
    const TOTAL: u64 = 256 << 20;
    for windows in [Windows::Tuned, Windows::Fixed] {
        let (mut agent, control_plane) = ends_with(&Config::default(), windows).await;
        let (near, far) = stream(&control_plane, &mut agent).await;
        let halves = [near, far].map(|stream| {
            let (mut reader, mut writer) = tokio::io::split(stream);
            let write = tokio::spawn(async move { write_pattern(&mut writer, TOTAL).await });
            let read = tokio::spawn(async move { check_pattern(&mut reader, TOTAL).await });
            (write, read)
        });
        for (write, read) in halves {
            within(Duration::from_secs(120), "the writer", write).await.unwrap();
            within(Duration::from_secs(120), "the reader", read).await.unwrap();
        }
        no_streams_left(&agent, &control_plane).await;
    }
}

/// However much bulk there is to say, small or large, what keeps the link alive does not wait behind it.
#[tokio::test]
async fn bulk_among_the_texts_waits_by_itself() {
    // The reader here is not the matter.
    let config = Config { control_bytes: usize::MAX, ..Config::default() };
    let (client, server) = crate::harness::sockets(&config).await;
    let agent = End::new(client, mux::Role::Agent, &config);
    // Nobody reads the other end.
    let mut talking = tokio::task::JoinSet::new();
    let said = Arc::new(AtomicUsize::new(0));
    for size in [1, 100_000, 1_000_000] {
        for _ in 0..50 {
            let (link, said) = (agent.link.clone(), said.clone());
            talking.spawn(async move {
                while link.send_bulk("x".repeat(size)).await.is_ok() {
                    said.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    }
    let mut last = (usize::MAX, 0);
    until("the socket to be full", || {
        let now = said.load(Ordering::Relaxed);
        last = if last.0 == now { (now, last.1 + 1) } else { (now, 0) };
        if last.1 > 100 { Ok(()) } else { Err(last) }
    })
    .await;
    // A place in the queue is left for each of these, although 150 wait to say more.
    for n in 0..100 {
        soon("a place", agent.link.send(format!("alive {n}"))).await.unwrap();
    }
    // Once somebody reads, all of it comes, and what was said first is not far behind.
    let mut control_plane = End::new(server, mux::Role::ControlPlane, &config);
    let mut bulk = 0;
    loop {
        let frame = soon("a text", control_plane.control.recv()).await.unwrap();
        let text = frame.as_text().unwrap();
        if text.starts_with("alive") {
            break;
        }
        bulk += text.len();
    }
    assert!(bulk < 64 << 20, "{bulk} bytes were before it");
}

/// What overtakes a text on its way is bounded by the socket's buffers, not by what the streams have to say.
#[tokio::test]
async fn text_is_prompt_beside_bulk() {
    const STREAMS: usize = 16;
    let listener = TcpSocket::new_v4().unwrap();
    listener.set_recv_buffer_size(64 * 1024).unwrap();
    listener.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = listener.listen(1).unwrap();
    let client = TcpSocket::new_v4().unwrap();
    client.set_send_buffer_size(64 * 1024).unwrap();
    let (client, server) = tokio::join!(client.connect(listener.local_addr().unwrap()), listener.accept());
    let config = Config::default();
    let (client, server) = handshake(client.unwrap(), server.unwrap().0, &config).await;
    let agent = End::new(client, mux::Role::Agent, &config);
    let mut control_plane = End::new(server, mux::Role::ControlPlane, &config);
    agent.link.start_streams(Windows::Tuned);
    control_plane.link.start_streams(Windows::Tuned);

    let mut bulk = tokio::task::JoinSet::new();
    for _ in 0..STREAMS {
        let (mut near, mut far) = stream(&agent, &mut control_plane).await;
        bulk.spawn(async move { while near.write_all(&[0; 64 * 1024]).await.is_ok() {} });
        bulk.spawn(async move { while let Ok(Some(_)) = far.chunk().await {} });
    }
    let mut overtaken = Vec::new();
    for i in 0.. {
        if i >= 200 && control_plane.link.stats().bytes_in > 64 << 20 {
            break;
        }
        let sent = agent.link.stats().bytes_out;
        agent.link.send(format!("text {i}")).await.unwrap();
        let text = soon("the text", control_plane.control.recv()).await.unwrap();
        assert_eq!(text.as_text().unwrap(), format!("text {i}"));
        overtaken.push(control_plane.link.stats().bytes_in.saturating_sub(sent));
    }
    overtaken.sort_unstable();
    let median = overtaken[overtaken.len() / 2];
    assert!(median < 1 << 20, "half of the texts waited behind more than {median} bytes");
}

#[tokio::test]
async fn the_cap_is_exact_and_frees_at_once() {
    let config = Config { max_streams: 300, ..Config::default() };
    let (mut agent, control_plane) = ends_with(&config, Windows::Tuned).await;
    let mut open = Vec::new();
    for _ in 0..300 {
        open.push(stream(&control_plane, &mut agent).await);
    }
    assert!(matches!(soon("open", control_plane.link.open()).await, Err(OpenError::TooManyStreams(300))));
    assert_eq!(control_plane.link.stats().open_streams, 300);
    for _ in 0..50 {
        let (near, far) = open.swap_remove(0);
        drop((far, near));
        let again = soon("open", control_plane.link.open()).await.unwrap();
        assert!(matches!(soon("open", control_plane.link.open()).await, Err(OpenError::TooManyStreams(_))));
        drop(again);
        open.push(stream(&control_plane, &mut agent).await);
    }
    drop(open);
    no_streams_left(&agent, &control_plane).await;
}

/// The two ends count for themselves; the one that finds too many resets them and keeps the link.
#[tokio::test]
async fn excess_streams_of_the_peer_are_reset_alone() {
    let (client, server) = crate::harness::sockets(&Config::default()).await;
    let tight = Config { max_streams: 2, ..Config::default() };
    let mut agent = End::new(client, mux::Role::Agent, &tight);
    let control_plane = End::new(server, mux::Role::ControlPlane, &Config::default());
    agent.link.start_streams(Windows::Tuned);
    control_plane.link.start_streams(Windows::Tuned);
    let (mut first, mut first_far) = stream(&control_plane, &mut agent).await;
    let _second = stream(&control_plane, &mut agent).await;
    let mut third = soon("open", control_plane.link.open()).await.unwrap();
    third.write_all(b"hi").await.unwrap();
    let error = soon("the refusal", third.read(&mut [0; 1])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(agent.link.stats().refused, 1);
    first.write_all(b"ok").await.unwrap();
    soon("the first", first_far.read_exact(&mut [0; 2])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_left_unread_are_reset_above_the_limit_and_one_that_is_read_goes_on() {
    const LIMIT: usize = 4 << 20;
    const TOTAL: u64 = 64 << 20;
    let config = Config { unread: Arc::new(Unread::limited(LIMIT)), ..Config::default() };
    let (mut agent, control_plane) = ends_with(&config, Windows::Fixed).await;
    let (mut near, mut far) = stream(&control_plane, &mut agent).await;
    let writer = tokio::spawn(async move { write_pattern(&mut near, TOTAL).await });
    let reader = tokio::spawn(async move { check_pattern(&mut far, TOTAL).await });
    let mut stuck = Vec::new();
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let (mut near, far) = stream(&control_plane, &mut agent).await;
        writers.spawn(async move { near.write_all(&[0; 512 * 1024]).await.unwrap_err().kind() });
        stuck.push(far);
    }
    within(Duration::from_secs(60), "the writer", writer).await.unwrap();
    within(Duration::from_secs(60), "the reader", reader).await.unwrap();
    // As many as fit may stay, and nothing counts but what they hold.
    until("the others to be reset", || {
        let (reset, unread) = (agent.link.stats().evicted as usize, config.unread.bytes());
        let left = (64 - reset) * (256 + 4) * 1024;
        if reset >= 64 - 16 && unread <= left.min(LIMIT) { Ok(()) } else { Err((reset, unread)) }
    })
    .await;
    let told = soon("the first that is reset", writers.join_next()).await.unwrap().unwrap();
    assert_eq!(told, std::io::ErrorKind::ConnectionReset);
    drop((stuck, writers));
    no_streams_left(&agent, &control_plane).await;
    assert_eq!(config.unread.bytes(), 0);
}

/// The peer's socket is full: what its streams may hold here meanwhile.
#[tokio::test]
async fn a_link_that_takes_nothing_holds_little_of_what_is_written() {
    const STREAMS: usize = 200;
    let config = Config::default();
    let (client, _idle) = crate::harness::sockets(&config).await;
    let agent = End::new(client, mux::Role::Agent, &config);
    agent.link.start_streams(Windows::Tuned);
    let written: Arc<[AtomicUsize; STREAMS]> = Arc::new(std::array::from_fn(|_| AtomicUsize::new(0)));
    let mut writers = tokio::task::JoinSet::new();
    for i in 0..STREAMS {
        let (link, written) = (agent.link.clone(), written.clone());
        writers.spawn(async move {
            let mut stream = link.open().await.unwrap();
            while let Ok(n) = stream.write(&[0; 64 * 1024]).await {
                written[i].fetch_add(n, Ordering::Relaxed);
            }
        });
    }
    until("every stream to have written a frame", || {
        let silent = written.iter().filter(|written| written.load(Ordering::Relaxed) == 0).count();
        if silent == 0 { Ok(()) } else { Err(silent) }
    })
    .await;
    let total: usize = written.iter().map(|written| written.load(Ordering::Relaxed)).sum();
    let gone = usize::try_from(agent.link.stats().bytes_out).unwrap();
    assert!(total - gone < (2 << 20) + STREAMS * 16 * 1024, "{} bytes wait", total - gone);
}

#[tokio::test]
async fn a_burst_of_opens_waits_for_the_acceptor_and_loses_none() {
    const STREAMS: usize = 3000;
    let (mut agent, control_plane) = ends().await;
    let opener = tokio::spawn({
        let link = control_plane.link.clone();
        async move {
            let mut open = Vec::new();
            for i in 0..STREAMS {
                let mut stream = link.open().await.unwrap();
                stream.write_all(&(i as u32).to_be_bytes()).await.unwrap();
                open.push(stream);
            }
            open
        }
    });
    let mut seen = vec![false; STREAMS];
    let mut kept = Vec::new();
    for _ in 0..STREAMS {
        let mut stream = soon("a stream", agent.streams.recv()).await.unwrap();
        let i = soon("its number", stream.read_u32()).await.unwrap() as usize;
        assert!(!std::mem::replace(&mut seen[i], true));
        kept.push(stream);
    }
    let open = soon("the opener", opener).await.unwrap();
    assert_eq!(agent.link.stats().open_streams, STREAMS);
    drop((open, kept));
    no_streams_left(&agent, &control_plane).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_two_thousand_abandoned_streams() {
    let (agent, control_plane) = ends().await;
    let agent_link = agent.link.clone();
    let echo = echo(agent);
    for round in 0..4 {
        let mut tasks = tokio::task::JoinSet::new();
        for i in 0..500 {
            let link = control_plane.link.clone();
            tasks.spawn(async move {
                let mut stream = link.open().await.unwrap();
                match i % 5 {
                    0 => {}
                    1 => stream.write_all(b"header").await.unwrap(),
                    2 => {
                        stream.write_all(&[0; 100_000]).await.unwrap();
                        let _ = stream.read(&mut [0; 10]).await;
                    }
                    3 => {
                        stream.write_all(b"header").await.unwrap();
                        stream.shutdown().await.unwrap();
                    }
                    _ => {
                        stream.write_all(b"header").await.unwrap();
                        stream.shutdown().await.unwrap();
                        stream.read_to_end(&mut Vec::new()).await.unwrap();
                    }
                }
            });
        }
        while let Some(done) = soon(&format!("round {round}"), tasks.join_next()).await {
            done.unwrap();
        }
    }
    until("no stream to be left", || {
        let open = (agent_link.stats().open_streams, control_plane.link.stats().open_streams);
        if open == (0, 0) { Ok(()) } else { Err(open) }
    })
    .await;
    assert_eq!(control_plane.link.stats().opened, 2000);
    echo.abort();
}

/// Serves every incoming stream: an echo until the end.
fn echo(mut agent: End) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let mut tasks = tokio::task::JoinSet::new();
        while let Some(stream) = agent.streams.recv().await {
            tasks.spawn(async move {
                let (mut reader, mut writer) = tokio::io::split(stream);
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
                let _ = writer.shutdown().await;
            });
        }
    })
}
