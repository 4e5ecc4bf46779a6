//! Requests and responses of every shape through the whole path, against a plain HTTP backend: nothing is buffered whole, nothing is
//! lost at the edges, and when one side goes the other is told.

#[path = "streams/everything.rs"]
mod everything;

use anyhow::{Context, Result, ensure};
use e2e::{
    Protocol,
    backend::End,
    client::{Target, Tls},
    scenes,
    stage::{Stage, run},
    wire::{Framing, Head, Sum, blocks, chunk},
};
use everything::a_watch_of_every_resource_shows_each_event_at_once_and_no_other;
use std::{process::ExitCode, time::Duration};
use tokio::{io::AsyncWriteExt, time::timeout};

/// One side's going shows on the other within this.
const NOTICED: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(10);
/// The control plane looks for revoked tokens every second; the rest is for a machine that has much else to do.
const REVOKED: Duration = Duration::from_secs(5);
const BULK: u64 = 64 << 20;

fn main() -> ExitCode {
    run(
        false,
        scenes![
            a_chunk_sent_comes_back_before_the_next_is_sent,
            trailers_of_a_request_reach_the_api_server,
            sixty_four_mebibytes_arrive_whole_each_way,
            bulk_flows_both_ways_at_once,
            a_client_that_sends_all_before_it_reads_is_not_stuck,
            upgrades_lose_no_first_byte_and_keep_half_closed,
            an_upload_waits_for_100_continue_and_goes_on,
            an_early_answer_to_an_upload_arrives,
            answers_without_a_body_have_none,
            when_the_client_goes_the_api_request_is_dropped_at_once,
            when_the_api_server_breaks_off_the_client_sees_it_at_once,
            a_session_ends_on_both_sides_when_its_token_is_revoked,
            a_session_stuck_both_ways_ends_when_its_client_goes,
            a_watch_of_every_resource_shows_each_event_at_once_and_no_other,
        ],
    )
}

/// The head of a response without its 100s and 103s.
async fn final_head(wire: &mut Tls) -> Result<Head> {
    loop {
        let head = timeout(SOON, wire.need_head()).await.context("no response head")??;
        if head.status() >= 200 || head.status() == 101 {
            return Ok(head);
        }
    }
}

async fn text(wire: &mut Tls) -> Result<(u16, String)> {
    let head = final_head(wire).await?;
    let (body, _) = timeout(SOON, wire.body(head.framing(Framing::ToEnd))).await.context("no end of the body")??;
    Ok((head.status(), String::from_utf8_lossy(&body).into_owned()))
}

async fn a_chunk_sent_comes_back_before_the_next_is_sent(stage: &Stage) -> Result<()> {
    let target = stage.plain()?;
    let headers = ["transfer-encoding: chunked", "te: trailers", "trailer: x-mine"];
    let mut wire = target.begin("POST", "/echo", &headers).await?;
    let mut sum = Sum::default();
    let mut framing = None;
    for (index, piece) in blocks(1 << 20).enumerate() {
        // Small ones too: nothing may wait for more to come.
        let piece = if index % 2 == 0 { piece } else { piece.into_iter().take(7).collect() };
        sum.add(&piece);
        wire.send(&chunk(&piece)).await?;
        let framing = match &mut framing {
            Some(framing) => framing,
            none => none.insert(final_head(&mut wire).await?.framing(Framing::ToEnd)),
        };
        let mut back = Vec::new();
        while back.len() < piece.len() {
            let more = timeout(SOON, wire.piece(framing)).await.context("the echo stays away")??;
            back.extend_from_slice(&more.context("the echo ends")?);
        }
        ensure!(back == piece, "piece {index} comes back changed");
    }
    wire.send(b"0\r\nx-mine: from the client\r\n\r\n").await?;
    let trailers = timeout(SOON, wire.each(framing.context("no echo")?, |_| ())).await.context("no end")??;
    let expected = vec![("x-sum".to_owned(), sum.text())];
    ensure!(trailers == expected, "trailers {trailers:?}, not {expected:?}");
    Ok(())
}

async fn trailers_of_a_request_reach_the_api_server(stage: &Stage) -> Result<()> {
    let headers = ["transfer-encoding: chunked", "te: trailers", "trailer: x-mine"];
    let mut wire = stage.plain()?.begin("POST", "/upload", &headers).await?;
    wire.send(&chunk(b"body")).await?;
    wire.send(b"0\r\nx-mine: kept\r\n\r\n").await?;
    let (status, answer) = text(&mut wire).await?;
    ensure!(status == 200 && answer.starts_with("4 ") && answer.ends_with(" x-mine=kept"), "{status}: {answer}");
    Ok(())
}

async fn sixty_four_mebibytes_arrive_whole_each_way(stage: &Stage) -> Result<()> {
    let target = stage.plain()?;
    let expected = Sum::of_blocks(BULK);
    for path in ["/download", "/sized"] {
        let mut wire = target.begin("GET", &format!("{path}?size={BULK}"), &[]).await?;
        let head = final_head(&mut wire).await?;
        let mut sum = Sum::default();
        wire.each(head.framing(Framing::ToEnd), |piece| sum.add(piece)).await?;
        ensure!(sum.text() == expected, "{path} arrives changed");
    }
    let length = format!("content-length: {BULK}");
    for header in [length.as_str(), "transfer-encoding: chunked"] {
        let mut wire = target.begin("POST", "/upload", &[header]).await?;
        let chunked = header.starts_with("transfer");
        for piece in blocks(BULK) {
            let piece = if chunked { chunk(&piece) } else { piece };
            wire.io.write_all(&piece).await?;
        }
        wire.send(if chunked { b"0\r\n\r\n" } else { b"" }).await?;
        let (status, answer) = text(&mut wire).await?;
        ensure!(status == 200 && answer == expected, "{header}: {status} {answer}");
    }
    Ok(())
}

async fn bulk_flows_both_ways_at_once(stage: &Stage) -> Result<()> {
    let headers = ["transfer-encoding: chunked", "te: trailers"];
    let wire = stage.plain()?.begin("POST", "/echo", &headers).await?;
    let (expected, size) = (Sum::of_blocks(BULK), BULK);
    let (read, mut write) = tokio::io::split(wire.io);
    let sending = async {
        for piece in blocks(size) {
            write.write_all(&chunk(&piece)).await?;
        }
        write.write_all(b"0\r\n\r\n").await?;
        write.flush().await?;
        anyhow::Ok(())
    };
    let receiving = async {
        let mut wire = e2e::wire::Wire::new(tokio::io::join(read, tokio::io::sink()));
        let head = wire.need_head().await?;
        let mut sum = Sum::default();
        let trailers = wire.each(head.framing(Framing::ToEnd), |piece| sum.add(piece)).await?;
        anyhow::Ok((sum.text(), trailers))
    };
    let ((), (sum, trailers)) = timeout(Duration::from_secs(60), async { tokio::try_join!(sending, receiving) })
        .await
        .context("it stands still")??;
    ensure!(sum == expected && trailers == [("x-sum".to_owned(), expected)], "{sum} {trailers:?}");
    Ok(())
}

async fn a_client_that_sends_all_before_it_reads_is_not_stuck(stage: &Stage) -> Result<()> {
    // More than all buffers on the way hold, so the answer cannot be parked anywhere while the request goes on.
    let size = 32 << 20;
    let mut wire =
        stage.plain()?.begin("POST", &format!("/crossing?size={size}"), &[&format!("content-length: {size}")]).await?;
    timeout(SOON, async {
        for piece in blocks(size) {
            wire.io.write_all(&piece).await?;
        }
        wire.io.flush().await
    })
    .await
    .context("the request stands still while its answer is not read")??;
    let head = final_head(&mut wire).await?;
    let mut sum = Sum::default();
    timeout(SOON, wire.each(head.framing(Framing::ToEnd), |piece| sum.add(piece))).await.context("no end")??;
    ensure!(sum.text() == Sum::of_blocks(size), "the answer arrives changed");
    Ok(())
}

async fn upgrades_lose_no_first_byte_and_keep_half_closed(stage: &Stage) -> Result<()> {
    let target = stage.plain()?;
    for protocol in ["SPDY/3.1", "websocket"] {
        let mut first = target.head("POST", "/upgrade", &["connection: Upgrade", &format!("upgrade: {protocol}")]);
        // In the same packet as the request, before the server has agreed: as kubectl's SPDY does not, but others do.
        first.extend_from_slice(b"early");
        let mut wire = target.connect().await?;
        wire.send(&first).await?;
        let head = final_head(&mut wire).await?;
        ensure!(head.status() == 101, "{}", head.first);
        ensure!(head.get("upgrade") == Some(protocol), "{head:?}");
        let hello = timeout(SOON, wire.exactly(10)).await.context("the first bytes are lost")??;
        ensure!(hello == "helloearly", "{hello:?}");
        let mut sum = Sum::default();
        sum.add(b"early");
        for piece in blocks(1 << 20) {
            sum.add(&piece);
            wire.send(&piece).await?;
            let back = timeout(SOON, wire.exactly(piece.len())).await.context("the echo stays away")??;
            ensure!(back == piece, "the echo is changed");
        }
        // Half-closed: the other direction still carries what comes after.
        wire.io.shutdown().await?;
        let (rest, _) = timeout(SOON, wire.body(Framing::ToEnd)).await.context("no end after half-close")??;
        ensure!(rest == format!("|{}", sum.text()).into_bytes(), "{:?}", String::from_utf8_lossy(&rest));
    }
    Ok(())
}

async fn an_upload_waits_for_100_continue_and_goes_on(stage: &Stage) -> Result<()> {
    let mut wire = stage.plain()?.begin("POST", "/upload", &["expect: 100-continue", "content-length: 5"]).await?;
    let head = timeout(SOON, wire.need_head()).await.context("no 100")??;
    ensure!(head.status() == 100, "{}", head.first);
    wire.send(b"12345").await?;
    let (status, answer) = text(&mut wire).await?;
    ensure!(status == 200 && answer.starts_with("5 "), "{status}: {answer}");
    Ok(())
}

async fn an_early_answer_to_an_upload_arrives(stage: &Stage) -> Result<()> {
    let target = stage.plain()?;
    // One that stops sending when it is answered, as curl does, and one that has sent little.
    let mut wire = target.begin("POST", "/early", &[&format!("content-length: {BULK}")]).await?;
    wire.send(&[b'x'; 1000]).await?;
    let (status, answer) = text(&mut wire).await?;
    ensure!(status == 413 && answer == "too much", "{status}: {answer}");
    // And the next request is none the worse.
    stage.answers(SOON).await
}

async fn answers_without_a_body_have_none(stage: &Stage) -> Result<()> {
    let target = stage.plain()?;
    // All on one connection: a body too many or too few would shift the next answer.
    let mut wire = target.connect().await?;
    for _ in 0..2 {
        wire.send(&target.head("HEAD", "/sized?size=1234", &[])).await?;
        let head = final_head(&mut wire).await?;
        ensure!(head.status() == 200 && head.get("content-length") == Some("1234"), "{head:?}");
        for code in ["204", "304"] {
            wire.send(&target.head("GET", &format!("/status?code={code}"), &[])).await?;
            let head = final_head(&mut wire).await?;
            ensure!(head.second() == code && head.get("etag") == Some("\"e1\""), "{head:?}");
            ensure!(head.get("transfer-encoding").is_none(), "{head:?}");
        }
        wire.send(&target.head("GET", "/interim", &[])).await?;
        let (status, body) = text(&mut wire).await?;
        ensure!(status == 200 && body == "after the hints", "{status}: {body}");
        wire.send(&target.head("GET", "/sized?size=0", &[])).await?;
        let (status, body) = text(&mut wire).await?;
        ensure!(status == 200 && body.is_empty(), "{status}: {body}");
    }
    Ok(())
}

async fn when_the_client_goes_the_api_request_is_dropped_at_once(stage: &Stage) -> Result<()> {
    let target = stage.plain()?;
    let upload = format!("content-length: {BULK}");
    let upgrade = ["connection: Upgrade", "upgrade: SPDY/3.1"];
    let cases: [(&str, &str, &[&str]); 5] = [
        ("GET", "/hang", &[]),
        ("GET", "/watch", &[]),
        ("POST", "/upload", &[&upload]),
        ("POST", "/upgrade", &upgrade),
        ("GET", "/download", &[]),
    ];
    for (index, (method, path, headers)) in cases.into_iter().enumerate() {
        let id = format!("client-goes-{index}");
        let mut wire = target.begin(method, &format!("{path}?id={id}&size={}", 1_u64 << 34), headers).await?;
        if path == "/upload" {
            wire.send(&[b'x'; 100_000]).await?;
        }
        stage.backend.started(&id, SOON).await?;
        if path == "/watch" || path == "/download" {
            final_head(&mut wire).await?;
            timeout(SOON, wire.some()).await.with_context(|| format!("{path} stands still"))??;
        }
        drop(wire);
        if path == "/upgrade" {
            // A session may end from either side at any time, so this is no break.
            stage.backend.ended(&id, NOTICED).await
        } else {
            stage.backend.abandoned(&id, NOTICED).await
        }
        .with_context(|| format!("{method} {path}"))?;
    }
    // On HTTP/2 it is a reset of one stream, while the connection goes on.
    let client = target.http(Protocol::Http2)?;
    for path in ["/hang", "/watch"] {
        let id = format!("h2-client-goes{}", path.replace('/', "-"));
        let request = client.get(target.url(&format!("{path}?id={id}"))).send();
        let request = tokio::spawn(request);
        stage.backend.started(&id, SOON).await?;
        if path == "/watch" {
            let mut response = timeout(SOON, request).await.context("no answer on HTTP/2")???;
            let first = timeout(SOON, response.chunk()).await.context("no first event on HTTP/2")??;
            ensure!(first.as_deref() == Some(b"first"), "{first:?}");
            drop(response);
        } else {
            request.abort();
        }
        stage.backend.abandoned(&id, NOTICED).await.with_context(|| format!("HTTP/2 {path}"))?;
    }
    Ok(())
}

async fn when_the_api_server_breaks_off_the_client_sees_it_at_once(stage: &Stage) -> Result<()> {
    let target = stage.plain()?;
    for path in ["/cut", "/cut-chunked"] {
        let mut wire = target.begin("GET", path, &[]).await?;
        let head = final_head(&mut wire).await?;
        let read = timeout(NOTICED, wire.body(head.framing(Framing::ToEnd))).await;
        let read = read.with_context(|| format!("{path}: the client still waits"))?;
        // When the end comes together with the beginning, there may be time to say so instead.
        ensure!(read.is_err() || head.status() == 502, "{path}: a short body reads as whole: {}", head.first);
    }
    for (protocol, end) in [
        (Protocol::Http1, End::Cut),
        (Protocol::Http1, End::Clean),
        (Protocol::Http2, End::Cut),
        (Protocol::Http2, End::Clean),
    ] {
        let id = format!("api-goes-{protocol:?}-{end:?}");
        let mut response = target.http(protocol)?.get(target.url(&format!("/watch?id={id}"))).send().await?;
        ensure!(response.chunk().await?.as_deref() == Some(b"first"), "no first event");
        stage.backend.end(&id, end);
        let rest = timeout(NOTICED, async {
            // The end of an HTTP/2 body may come as an empty piece.
            loop {
                let rest = response.chunk().await;
                if !matches!(&rest, Ok(Some(piece)) if piece.is_empty()) {
                    return rest;
                }
            }
        })
        .await
        .with_context(|| format!("{id}: still waits"))?;
        match end {
            End::Clean => ensure!(rest.as_ref().is_ok_and(Option::is_none), "{id}: {rest:?}"),
            End::Cut => ensure!(rest.is_err(), "{id}: {rest:?}"),
        }
    }
    // No answer at all, and an upload whose reader goes.
    let mut wire = target.begin("GET", "/no-answer", &[]).await?;
    let (status, answer) = timeout(NOTICED, text(&mut wire)).await.context("no answer about no answer")??;
    ensure!(status == 502 && answer.contains("\"kind\":\"Status\""), "{status}: {answer}");
    let id = "api-goes-upload";
    let length = format!("content-length: {BULK}");
    let mut wire = target.begin("POST", &format!("/half-read?id={id}"), &[&length]).await?;
    wire.send(&[b'x'; 300_000]).await?;
    stage.backend.started(id, SOON).await?;
    stage.backend.end(id, End::Cut);
    let (status, answer) = timeout(NOTICED, text(&mut wire)).await.context("the upload still waits")??;
    ensure!(status == 502 && answer.contains("\"kind\":\"Status\""), "{status}: {answer}");
    // And a session.
    let id = "api-goes-session";
    let mut wire = session(&target, id).await?;
    stage.backend.end(id, End::Cut);
    let rest = timeout(NOTICED, wire.body(Framing::ToEnd)).await.context("the session still waits")?;
    drop(rest);
    Ok(())
}

async fn a_session_ends_on_both_sides_when_its_token_is_revoked(stage: &Stage) -> Result<()> {
    let token = stage.lab.create_token(&["--user", "leaver", "--group", "lab:admins"]).await?;
    let mut target = stage.plain()?;
    let mut stays = session(&target, "session-stays").await?;
    target.token.clone_from(&token);
    let mut leaves = session(&target, "session-leaves").await?;
    stage.lab.control_plane(&["token", "revoke", &token]).await?;
    let rest = timeout(REVOKED, async { while leaves.fill().await.unwrap_or(false) {} });
    rest.await.context("the session goes on")?;
    stage.backend.ended("session-leaves", NOTICED).await?;
    stays.send(b"still here").await?;
    let back = timeout(SOON, stays.exactly(10)).await.context("another user's session is stuck")??;
    ensure!(back == "still here", "{back:?}");
    Ok(())
}

async fn a_session_stuck_both_ways_ends_when_its_client_goes(stage: &Stage) -> Result<()> {
    let target = stage.plain()?;
    let mut wire = session(&target, "session-stuck").await?;
    // The echo comes back until everything on the way is full, and then the sending stops as well.
    let piece = vec![b'x'; 256 * 1024];
    while let Ok(sent) = timeout(Duration::from_millis(300), wire.send(&piece)).await {
        sent?;
    }
    drop(wire);
    stage.backend.ended("session-stuck", NOTICED).await
}

/// A session that has begun.
async fn session(target: &Target, id: &str) -> Result<Tls> {
    let upgrade = ["connection: Upgrade", "upgrade: SPDY/3.1"];
    let mut wire = target.begin("POST", &format!("/upgrade?id={id}"), &upgrade).await?;
    ensure!(final_head(&mut wire).await?.status() == 101, "no session");
    ensure!(timeout(SOON, wire.exactly(5)).await?? == "hello", "{id} does not begin");
    Ok(wire)
}
