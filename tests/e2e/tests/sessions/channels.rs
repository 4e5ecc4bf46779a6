//! Sessions by WebSocket as the API server defines them (`v5.channel.k8s.io`), without a client library around it.

use crate::prepare::SOON;
use anyhow::{Context, Result, ensure};
use e2e::{Front, Protocol, client::Target};
use lab::{Ended, Exec, Lab};
use reqwest::Method;
use std::{sync::Arc, time::Instant};
use tokio::{task::JoinSet, time::timeout};

const SESSIONS: usize = 2000;
const AT_ONCE: usize = 20;

/// Says something at once, then what it is sent; ends with its argument modulo three.
const SCRIPT: &str = "echo first $1; cat; echo second $1 >&2; exit $(($1 % 3))";

/// Runs a command in the pod `box`; `stdin` is sent as soon as the server has agreed. Gives its stdout, too.
async fn exec(target: &Target, namespace: &str, command: &[&str], stdin: &[u8]) -> Result<(Vec<u8>, Ended)> {
    let pod = format!("{}/api/v1/namespaces/{namespace}/pods/box", target.base);
    let mut exec = Exec::open(target.connect().await?.io, &pod, Some(&target.token), command, true).await?;
    exec.send(stdin).await?;
    exec.end_input().await?;
    let mut stdout = Vec::new();
    let ended = exec.finish(|data| stdout.extend_from_slice(data)).await?;
    Ok((stdout, ended))
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
            let (stdout, ended) = session.await.context("it does not end")??;
            ensure!(stdout == format!("first {number}\n{sent}").as_bytes(), "session {number}: {stdout:?}, {ended:?}");
            ensure!(ended.stderr == format!("second {number}\n").as_bytes(), "session {number}: {ended:?}");
            ensure!(ended.code() == i32::try_from(number % 3).ok(), "session {number}: {ended:?}");
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
