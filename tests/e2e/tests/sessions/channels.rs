//! Sessions by WebSocket as the API server defines them (`v5.channel.k8s.io`), without a client library around it.

use crate::prepare::SOON;
use anyhow::{Context, Result, ensure};
use e2e::{Front, Protocol, client::Target};
use futures::{SinkExt, StreamExt};
use lab::Lab;
use reqwest::Method;
use serde_json::Value;
use std::{sync::Arc, time::Instant};
use tokio::{task::JoinSet, time::timeout};
use tokio_tungstenite::{
    client_async,
    tungstenite::{Bytes, ClientRequestBuilder, Message},
};

const SESSIONS: usize = 2000;
const AT_ONCE: usize = 20;

/// The first byte of a message says whose it is.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
/// Before the channel that ends.
const CLOSE: u8 = 255;

/// Says something at once, then what it is sent; ends with its argument modulo three.
const SCRIPT: &str = "echo first $1; cat; echo second $1 >&2; exit $(($1 % 3))";

#[derive(Debug, Default)]
struct Ended {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    status: Vec<u8>,
}

/// Runs a command in the pod `box`; `stdin` is sent as soon as the server has agreed.
async fn exec(target: &Target, namespace: &str, command: &[&str], stdin: &[u8]) -> Result<Ended> {
    let flags = ["stdin", "stdout", "stderr"].map(|flag| (flag, "true"));
    let query = command.iter().map(|word| ("command", *word)).chain(flags);
    let path = target.url(&format!("/api/v1/namespaces/{namespace}/pods/box/exec"));
    let url = reqwest::Url::parse_with_params(&path.replacen("https", "wss", 1), query)?;
    let request = ClientRequestBuilder::new(url.as_str().parse()?)
        .with_header("authorization", format!("Bearer {}", target.token))
        .with_sub_protocol("v5.channel.k8s.io");
    let (mut socket, _) = client_async(request, target.connect().await?.io).await?;
    socket.feed(Message::Binary([&[STDIN], stdin].concat().into())).await?;
    socket.send(Message::Binary(Bytes::from_static(&[CLOSE, STDIN]))).await?;
    let mut ended = Ended::default();
    while let Some(message) = socket.next().await {
        match message? {
            Message::Binary(message) => {
                let (channel, bytes) = message.split_first().context("a message of no channel")?;
                match *channel {
                    STDOUT => ended.stdout.extend_from_slice(bytes),
                    STDERR => ended.stderr.extend_from_slice(bytes),
                    STATUS => ended.status.extend_from_slice(bytes),
                    CLOSE => {}
                    other => anyhow::bail!("a message of channel {other}: {bytes:?}"),
                }
            }
            Message::Close(_) => break,
            other => ensure!(other.is_ping(), "{other:?}"),
        }
    }
    Ok(ended)
}

/// The first bytes after an upgrade are those that get lost where a proxy reads ahead.
pub async fn no_byte_of_two_thousand_sessions_is_lost(lab: Arc<Lab>) -> Result<()> {
    let namespace = "channels";
    lab.create_namespace(namespace).await?;
    lab.run_pod(namespace, "box", "sleep infinity").await?;
    let target = Target::new(&lab, lab.cluster())?;
    let began = Instant::now();
    let mut sessions = JoinSet::new();
    for number in 0..SESSIONS {
        if sessions.len() == AT_ONCE
            && let Some(ended) = sessions.join_next().await
        {
            ended.context("a session's task ended early")??;
        }
        let target = target.clone();
        sessions.spawn(async move {
            // From a few bytes to more than one packet.
            let sent = format!("{number};").repeat(1 + number % 700);
            let name = number.to_string();
            let command = ["sh", "-c", SCRIPT, "sh", &name];
            let session = timeout(SOON, exec(&target, namespace, &command, sent.as_bytes()));
            let ended = session.await.context("it does not end")??;
            let status: Value = serde_json::from_slice(&ended.status)?;
            ensure!(ended.stdout == format!("first {number}\n{sent}").as_bytes(), "session {number}: {ended:?}");
            ensure!(ended.stderr == format!("second {number}\n").as_bytes(), "session {number}: {ended:?}");
            let code = status.pointer("/details/causes/0/message").and_then(Value::as_str);
            let expected = [None, Some("1"), Some("2")].get(number % 3).copied().flatten();
            ensure!(code == expected, "session {number}: {status}");
            anyhow::Ok(())
        });
    }
    while let Some(ended) = sessions.join_next().await {
        ended.context("a session's task ended early")??;
    }
    println!("{SESSIONS} sessions in {:?}", began.elapsed());
    Ok(())
}

/// HTTP/2 has no upgrades. Clients that ask for a session by it have to read why there is none.
pub async fn sessions_by_http2_are_refused_with_the_reason(lab: Arc<Lab>) -> Result<()> {
    let namespace = "http2-sessions";
    lab.create_namespace(namespace).await?;
    lab.run_pod(namespace, "box", "sleep infinity").await?;
    let fronts = [Front::direct(&lab, Protocol::Http2)?, Front::through(&lab, Protocol::Http2)?];
    for rest in ["exec?command=true&stdout=true", "attach?stdout=true", "portforward?ports=80"] {
        for method in [Method::GET, Method::POST] {
            let mut answers = Vec::new();
            for front in &fronts {
                let path = format!("/api/v1/namespaces/{namespace}/pods/box/{rest}");
                let response = front.request(method.clone(), &path).send().await?;
                ensure!(response.version() == reqwest::Version::HTTP_2, "{:?}", response.version());
                answers.push((response.status(), response.text().await?));
            }
            let [straight, through] = answers.as_slice() else { anyhow::bail!("{answers:?}") };
            ensure!(straight == through, "{method} {rest}: straight {straight:?}, through {through:?}");
            ensure!(through.1.contains("pgrade"), "{method} {rest}: {through:?}");
        }
    }
    Ok(())
}
