//! Clients of HTTP/1.1 and HTTP/2: status, headers and body are those of the API server.

use crate::objects::OBJECTS;
use anyhow::{Context, Result, ensure};
use e2e::{Front, Protocol, normalise};
use lab::Lab;
use reqwest::{
    Body, Method, RequestBuilder, Version,
    header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap},
};
use std::{sync::Arc, time::Duration};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
/// What differs between two answers of the API server itself.
const OF_ONE_ANSWER: [&str; 2] = ["audit-id", "date"];
const SOON: Duration = Duration::from_secs(10);

/// Method, path, headers, body.
type Asked<'a> = (Method, &'a str, &'a [(&'a str, &'a str)], &'a str);

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

async fn answer(request: RequestBuilder, version: Version) -> Result<Answer> {
    let response = request.send().await?;
    ensure!(response.version() == version, "the answer came by {:?}", response.version());
    let status = response.status().as_u16();
    let mut headers = listed(response.headers());
    if version == Version::HTTP_2 {
        // Of a body of 2 to 4 KiB the API server says the length in HTTP/2 and not in HTTP/1.1, which the agent speaks to it.
        headers.retain(|(name, _)| name != "content-length");
    }
    let body = response.bytes().await?.to_vec();
    // Every write of the same object gets another version and time.
    let body = match std::str::from_utf8(&body) {
        Ok(text) => normalise(text).into_bytes(),
        Err(_) => body,
    };
    Ok(Answer { status, headers, body })
}

fn listed(headers: &HeaderMap) -> Vec<(String, String)> {
    let mut headers: Vec<_> = headers
        .iter()
        .filter(|(name, _)| !OF_ONE_ANSWER.contains(&name.as_str()))
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    headers.sort();
    headers
}

pub async fn both_versions_of_http_get_what_the_api_server_answers(lab: Arc<Lab>) -> Result<()> {
    lab.create_namespace("fronts").await?;
    lab.admin().stdout_with_input(&["apply", "-n", "fronts", "-f", "-"], OBJECTS).await?;
    let base = "/api/v1/namespaces/fronts/configmaps";
    // A list says of which version of all objects it is, and protobuf's bytes are compared as they are.
    let version =
        lab.admin().stdout(&["get", "configmaps", "-n", "fronts", "-o", "jsonpath={.metadata.resourceVersion}"]);
    let list = format!("{base}?resourceVersionMatch=Exact&resourceVersion={}", version.await?);
    let page = format!("{list}&limit=1");
    let one = format!("{base}/settings");
    let made = format!("{base}/made");
    let new = r#"{"metadata":{"name":"made"},"data":{"a":"b"}}"#;
    let requests: [Asked<'_>; 20] = [
        (Method::GET, &one, &[], ""),
        (Method::GET, &one, &[("accept", "application/yaml")], ""),
        // A table without ages, which are others a second later.
        (Method::GET, "/apis/rbac.authorization.k8s.io/v1/clusterroles/view", &[("accept", TABLE)], ""),
        (Method::GET, &one, &[("accept", PROTOBUF)], ""),
        (Method::GET, &list, &[("accept", PROTOBUF)], ""),
        (Method::GET, base, &[("accept", "text/html")], ""),
        (Method::GET, "/openapi/v2", &[("accept-encoding", "gzip")], ""),
        (Method::GET, "/openapi/v3/api/v1", &[("accept-encoding", "gzip")], ""),
        (Method::GET, "/api/v1/namespaces/fronts/configmaps/absent", &[], ""),
        (Method::GET, "/absent", &[], ""),
        (Method::GET, &page, &[], ""),
        (Method::GET, "/api", &[], ""),
        (Method::HEAD, &one, &[], ""),
        (Method::OPTIONS, &one, &[], ""),
        (Method::POST, base, &[("content-type", "application/json")], new),
        (Method::POST, base, &[("content-type", "application/json")], new),
        (Method::PATCH, &made, &[("content-type", "application/merge-patch+json")], r#"{"data":{"a":"c"}}"#),
        (Method::PUT, &made, &[("content-type", "application/json")], new),
        (Method::PUT, &made, &[("content-type", "application/json")], "{broken"),
        (Method::DELETE, &made, &[("x-unknown", "kept")], ""),
    ];
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let version = if protocol == Protocol::Http1 { Version::HTTP_11 } else { Version::HTTP_2 };
        let fronts = [Front::direct(&lab, protocol)?, Front::through(&lab, protocol)?];
        let mut answers = Vec::new();
        for front in &fronts {
            let mut of_one = Vec::new();
            for (method, path, headers, body) in &requests {
                let mut request = front.request(method.clone(), path);
                for (name, value) in *headers {
                    request = request.header(*name, *value);
                }
                if !body.is_empty() {
                    request = request.body((*body).to_owned());
                }
                let what = || format!("{method} {path} {headers:?} by {protocol:?}");
                of_one.push(answer(request, version).await.with_context(what)?);
            }
            answers.push(of_one);
        }
        let (straight, through) = (answers.first().context("two fronts")?, answers.last().context("two fronts")?);
        for ((request, straight), through) in requests.iter().zip(straight).zip(through) {
            let (method, path, headers, _) = request;
            let what = format!("{method} {path} {headers:?} by {protocol:?}");
            ensure!(straight.status == through.status, "{what}: {} and {}", straight.status, through.status);
            ensure!(
                straight.headers == through.headers,
                "{what}: headers\n{:#?}\nthrough the agent\n{:#?}",
                straight.headers,
                through.headers
            );
            ensure!(straight.body == through.body, "{what}: the bodies differ");
        }
    }
    Ok(())
}

pub async fn bodies_of_both_versions_of_http_arrive(lab: Arc<Lab>) -> Result<()> {
    lab.create_namespace("bodies").await?;
    let path = "/api/v1/namespaces/bodies/configmaps";
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let through = Front::through(&lab, protocol)?;
        let name = format!("{protocol:?}").to_lowercase();
        let text = "0123456789abcdef".repeat(60_000);
        let body = format!(r#"{{"metadata":{{"name":"{name}"}},"data":{{"text":"{text}"}}}}"#);
        // In pieces and without a length: chunked in HTTP/1.1, plain frames in HTTP/2.
        let pieces: Vec<std::io::Result<Vec<u8>>> =
            body.as_bytes().chunks(10_000).map(|part| Ok(part.to_vec())).collect();
        let stream = Body::wrap_stream(futures::stream::iter(pieces));
        let request = through.request(Method::POST, path).header(CONTENT_TYPE, "application/json").body(stream);
        ensure!(request.send().await?.status() == 201, "the upload by {protocol:?}");

        let get = |encoding: &'static str| through.get(&format!("{path}/{name}")).header(ACCEPT_ENCODING, encoding);
        let plain = get("identity").send().await?.error_for_status()?;
        ensure!(plain.headers().get(CONTENT_ENCODING).is_none(), "an answer that was to be plain");
        let object: serde_json::Value = plain.json().await?;
        let stored = object.pointer("/data/text").and_then(serde_json::Value::as_str);
        ensure!(stored == Some(text.as_str()), "what was stored differs from what was sent");
        let packed = get("gzip").send().await?.error_for_status()?;
        ensure!(packed.headers().get(CONTENT_ENCODING).is_some_and(|value| value == "gzip"), "not compressed");
        ensure!(packed.bytes().await?.starts_with(&[0x1f, 0x8b]), "not gzip's bytes");
    }
    Ok(())
}

pub async fn a_protobuf_watch_delivers_whole_frames(lab: Arc<Lab>) -> Result<()> {
    lab.create_namespace("frames").await?;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let mut seen = Vec::new();
        for front in [Front::direct(&lab, protocol)?, Front::through(&lab, protocol)?] {
            let path = "/api/v1/namespaces/frames/configmaps?watch=1";
            let accept = format!("{PROTOBUF};stream=watch");
            let mut response = front.get(path).header(ACCEPT, accept).send().await?.error_for_status()?;
            let kind = response.headers().get(CONTENT_TYPE).context("no content type")?.to_str()?.to_owned();
            let mut bytes = Vec::new();
            let frame = tokio::time::timeout(SOON, async {
                loop {
                    bytes.extend_from_slice(&response.chunk().await?.context("the watch has ended")?);
                    // Each frame has its length in front.
                    let Some((length, frame)) = bytes.split_first_chunk::<4>() else { continue };
                    if let Some(frame) = frame.get(..usize::try_from(u32::from_be_bytes(*length))?) {
                        return anyhow::Ok(frame.to_vec());
                    }
                }
            });
            let frame = frame.await.context("no whole frame")??;
            ensure!(frame.windows(16).any(|part| part == b"kube-root-ca.crt"), "not the namespace's ConfigMap");
            seen.push((kind, frame));
        }
        ensure!(seen.first() == seen.last(), "the first event by {protocol:?} differs");
    }
    Ok(())
}
