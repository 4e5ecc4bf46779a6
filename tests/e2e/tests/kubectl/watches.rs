//! Watches: every event at once, for as long as one wants.

use anyhow::{Context, Result, ensure};
use e2e::{Front, Protocol, normalise};
use lab::{Lab, Lines};
use reqwest::{Method, Response, header::CONTENT_TYPE};
use serde_json::Value;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Far above what one event takes on a busy machine, far below what a buffer or a timer would make of it.
const EVENT_WITHIN: Duration = Duration::from_secs(5);
/// Seconds without an event, about two minutes together. The last is longer than every timeout on the way: the longest is that of idle
/// connections, 60 s.
const GAPS: [u64; 8] = [1, 2, 3, 5, 8, 13, 20, 63];

async fn change(front: &Front, namespace: &str, method: Method, name: &str, body: &str) -> Result<()> {
    let base = format!("/api/v1/namespaces/{namespace}/configmaps");
    let path = if method == Method::POST { base } else { format!("{base}/{name}") };
    let kind = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
    front.request(method, &path).header(CONTENT_TYPE, kind).body(body.to_owned()).send().await?.error_for_status()?;
    Ok(())
}

pub async fn events_arrive_one_by_one(lab: Arc<Lab>) -> Result<()> {
    lab.create_namespace("watched").await?;
    let api = Front::direct(&lab, Protocol::Http2)?;
    let args = ["get", "configmaps", "-n", "watched", "-w", "--output-watch-events", "--no-headers"];
    let (mut straight, mut through) = (Lines::of(lab.direct(), &args)?, Lines::of(lab.proxied()?, &args)?);
    let mut events = Events::start(&lab, "watched", Protocol::Http1).await?;
    let mut both = async |what: &str| -> Result<()> {
        let (straight, through) = tokio::try_join!(straight.next(EVENT_WITHIN), through.next(EVENT_WITHIN))?;
        let (straight, through) = (normalise(&straight), normalise(&through));
        ensure!(straight == through, "straight {straight:?}, through the agent {through:?}");
        ensure!(through.starts_with(what), "expected {what}: {through:?}");
        Ok(())
    };
    both("ADDED").await.context("the object that was there before")?;
    let mut slowest = Duration::ZERO;
    for number in 0..25 {
        let name = format!("item-{number}");
        let added = format!(r#"{{"metadata":{{"name":"{name}"}},"data":{{"a":"b"}}}}"#);
        for (method, body, what) in [
            (Method::POST, added.as_str(), "ADDED"),
            (Method::PATCH, r#"{"data":{"c":"d"}}"#, "MODIFIED"),
            (Method::DELETE, "", "DELETED"),
        ] {
            let started = Instant::now();
            change(&api, "watched", method, &name, body).await?;
            both(what).await.with_context(|| format!("{what} of {name}"))?;
            slowest = slowest.max(started.elapsed());
            let event = events.next(EVENT_WITHIN).await.with_context(|| format!("{what} of {name} by HTTP/1.1"))?;
            ensure!(event.pointer("/type").and_then(Value::as_str) == Some(what), "expected {what}: {event}");
        }
    }
    ensure!(slowest < EVENT_WITHIN, "an event took {slowest:?}");
    Ok(())
}

pub async fn a_watch_of_minutes_shows_each_event_at_once_and_nothing_between(lab: Arc<Lab>) -> Result<()> {
    lab.create_namespace("silent").await?;
    let api = Front::direct(&lab, Protocol::Http2)?;
    let mut kubectl = Lines::of(lab.proxied()?, &["get", "configmaps", "-n", "silent", "-w", "-o", "name"])?;
    ensure!(kubectl.next(EVENT_WITHIN).await? == "configmap/kube-root-ca.crt", "the first line");
    let mut one = Events::start(&lab, "silent", Protocol::Http1).await?;
    let mut two = Events::start(&lab, "silent", Protocol::Http2).await?;
    for gap in GAPS {
        let context = || format!("the gap of {gap} s");
        let silence = Duration::from_secs(gap);
        tokio::try_join!(kubectl.silent_for(silence), one.silent_for(silence), two.silent_for(silence))
            .with_context(context)?;
        let name = format!("after-{gap}");
        change(&api, "silent", Method::POST, &name, &format!(r#"{{"metadata":{{"name":"{name}"}}}}"#)).await?;
        let (line, one, two) =
            tokio::try_join!(kubectl.next(EVENT_WITHIN), one.next(EVENT_WITHIN), two.next(EVENT_WITHIN))
                .with_context(context)?;
        ensure!(line == format!("configmap/{name}"), "after {}: {line:?}", context());
        for event in [one, two] {
            let found = event.pointer("/object/metadata/name").and_then(Value::as_str);
            ensure!(found == Some(name.as_str()), "after {}: {event}", context());
        }
    }
    Ok(())
}

/// A watch without kubectl, from now on.
struct Events {
    response: Response,
    buffer: Vec<u8>,
}

impl Events {
    async fn start(lab: &Lab, namespace: &str, protocol: Protocol) -> Result<Self> {
        let front = Front::through(lab, protocol)?;
        let path = format!("/api/v1/namespaces/{namespace}/configmaps");
        let list: Value = front.get(&path).send().await?.error_for_status()?.json().await?;
        let version = list.pointer("/metadata/resourceVersion").and_then(Value::as_str).context("no version")?;
        let watch = format!("{path}?watch=1&resourceVersion={version}");
        let response = front.get(&watch).send().await?.error_for_status()?;
        let expected = if protocol == Protocol::Http1 { reqwest::Version::HTTP_11 } else { reqwest::Version::HTTP_2 };
        ensure!(response.version() == expected, "the watch speaks {:?}", response.version());
        Ok(Self { response, buffer: Vec::new() })
    }

    async fn next(&mut self, limit: Duration) -> Result<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return serde_json::from_slice(&line).context("an event is not JSON");
            }
            let chunk = tokio::time::timeout(limit, self.response.chunk())
                .await
                .with_context(|| format!("no event within {limit:?}"))??;
            self.buffer.extend_from_slice(&chunk.context("the watch has ended")?);
        }
    }

    async fn silent_for(&mut self, time: Duration) -> Result<()> {
        match tokio::time::timeout(time, self.response.chunk()).await {
            Err(_) => Ok(()),
            Ok(end) => Err(anyhow::anyhow!("the watch was to be silent, and gave {end:?}")),
        }
    }
}
