//! A watch of every resource at once, which dashboards and controllers keep open all day.

use anyhow::{Context, Result, bail, ensure};
use e2e::{Front, Protocol, stage::Stage};
use futures::future::try_join_all;
use lab::until;
use reqwest::{Method, Response, header::CONTENT_TYPE};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// Far above what one event takes on a busy machine, far below what a buffer or a timer would make of it.
const EVENT_WITHIN: Duration = Duration::from_secs(5);
/// How the API server is reached; the first is what the others are compared with.
const WAYS: [&str; 3] = ["straight", "HTTP/1.1", "HTTP/2"];
const NAMESPACE: &str = "watched-whole";

/// Collections, and an object for each: what comes, changes and goes while all is watched.
fn objects() -> Vec<(String, Value)> {
    let within = |group: &str, kind: &str| format!("{group}/namespaces/{NAMESPACE}/{kind}");
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    vec![
        (within("/api/v1", "configmaps"), json!({"data": {"a": "b"}})),
        (within("/api/v1", "secrets"), json!({"stringData": {"a": "b"}})),
        (within("/api/v1", "serviceaccounts"), json!({})),
        (within("/api/v1", "services"), json!({"spec": {"clusterIP": "None", "ports": [{"port": 80}]}})),
        (within("/apis/coordination.k8s.io/v1", "leases"), json!({"spec": {"holderIdentity": "nobody"}})),
        (within("/apis/networking.k8s.io/v1", "networkpolicies"), json!({"spec": {"podSelector": {}}})),
        (within(rbac, "roles"), json!({"rules": []})),
        (format!("{rbac}/clusterroles"), json!({"rules": []})),
        ("/apis/scheduling.k8s.io/v1/priorityclasses".to_owned(), json!({"value": 7})),
        ("/apis/storage.k8s.io/v1/storageclasses".to_owned(), json!({"provisioner": "example.com/none"})),
    ]
}

/// What each watch has shown, by the way and the collection.
type Shown = Arc<Mutex<BTreeMap<(&'static str, String), Vec<String>>>>;

async fn get(front: &Front, path: &str) -> Result<Value> {
    Ok(front.get(path).send().await?.error_for_status()?.json().await?)
}

/// The path of every collection that can be listed and watched.
async fn collections(front: &Front) -> Result<Vec<String>> {
    let groups = get(front, "/apis").await?;
    let versions = groups.pointer("/groups").and_then(Value::as_array).into_iter().flatten();
    let versions = versions.filter_map(|group| group.pointer("/versions")?.as_array()).flatten();
    let mut paths = vec!["/api/v1".to_owned()];
    paths.extend(versions.filter_map(|version| Some(format!("/apis/{}", version.pointer("/groupVersion")?.as_str()?))));
    let mut collections = Vec::new();
    for path in paths {
        let resources = get(front, &path).await?;
        for resource in resources.pointer("/resources").and_then(Value::as_array).into_iter().flatten() {
            let verbs = resource.pointer("/verbs").and_then(Value::as_array).into_iter().flatten();
            let watched = verbs.filter(|verb| ["list", "watch"].iter().any(|wanted| *verb == wanted)).count() == 2;
            if watched && let Some(name) = resource.pointer("/name").and_then(Value::as_str) {
                collections.push(format!("{path}/{name}"));
            }
        }
    }
    Ok(collections)
}

/// An event as one text: an object's version is that of its change.
fn line(kind: &str, object: &Value) -> String {
    let field = |name: &str| object.pointer(&format!("/metadata/{name}")).and_then(Value::as_str).unwrap_or_default();
    format!("{kind} {}/{} {}", field("namespace"), field("name"), field("resourceVersion"))
}

/// Reads a watch until it ends, which is an error.
async fn follow(mut response: Response, key: (&'static str, String), shown: Shown) -> Result<()> {
    let mut buffer = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        buffer.extend_from_slice(&chunk);
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let text: Vec<u8> = buffer.drain(..=end).collect();
            let event: Value = serde_json::from_slice(&text).context("an event is not JSON")?;
            let kind = event.pointer("/type").and_then(Value::as_str).unwrap_or_default();
            // Each watch has its own times for them.
            if kind != "BOOKMARK" {
                let line = line(kind, event.pointer("/object").context("an event without an object")?);
                shown.lock().unwrap_or_else(PoisonError::into_inner).entry(key.clone()).or_default().push(line);
            }
        }
    }
    bail!("it ends")
}

pub async fn a_watch_of_every_resource_shows_each_event_at_once_and_no_other(stage: &Stage) -> Result<()> {
    let lab = &stage.lab;
    let straight = Front::direct(lab, Protocol::Http2)?;
    let fronts = [straight.clone(), Front::through(lab, Protocol::Http1)?, Front::through(lab, Protocol::Http2)?];
    lab.admin().stdout(&["create", "namespace", NAMESPACE]).await?;
    let collections = collections(&straight).await?;
    ensure!(collections.len() > 50, "only {} kinds of objects: {collections:?}", collections.len());

    let shown = Shown::default();
    let mut watches = JoinSet::new();
    let begun = Instant::now();
    for collection in &collections {
        let list = get(&straight, &format!("{collection}?limit=1")).await?;
        let version = list.pointer("/metadata/resourceVersion").and_then(Value::as_str).context("no version")?;
        let path = format!("{collection}?watch=1&allowWatchBookmarks=true&resourceVersion={version}");
        let opened = try_join_all(fronts.iter().map(|front| front.get(&path).send())).await?;
        for (response, way) in opened.into_iter().zip(WAYS) {
            let response = response.error_for_status()?;
            let (shown, name) = (Arc::clone(&shown), format!("{collection} {way}"));
            let key = (way, collection.clone());
            watches.spawn(async move { (name, follow(response, key, shown).await) });
        }
    }
    println!("{} watches open after {:?}", watches.len(), begun.elapsed());
    let of = |way: &'static str, collection: &str| {
        let shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.get(&(way, collection.to_owned())).cloned().unwrap_or_default()
    };

    let mut slowest = Duration::ZERO;
    for (path, mut object) in objects() {
        let collection = path.replace(&format!("/namespaces/{NAMESPACE}"), "");
        let namespace = if path == collection { "" } else { NAMESPACE };
        if let Some(fields) = object.as_object_mut() {
            fields.insert("metadata".to_owned(), json!({"name": "one"}));
        }
        let one = format!("{path}/one");
        let label = json!({"metadata": {"labels": {"a": "b"}}});
        for (method, path, content, body, kind) in [
            (Method::POST, &path, "application/json", object.to_string(), "ADDED"),
            (Method::PATCH, &one, "application/merge-patch+json", label.to_string(), "MODIFIED"),
            (Method::DELETE, &one, "application/json", String::new(), "DELETED"),
        ] {
            let request = straight.request(method, path).header(CONTENT_TYPE, content).body(body);
            let asked = Instant::now();
            request.send().await?.error_for_status()?;
            let wanted = format!("{kind} {namespace}/one ");
            until(&format!("{wanted} of {collection}"), EVENT_WITHIN, || async {
                for way in WAYS {
                    let shown = of(way, &collection);
                    ensure!(shown.iter().any(|line| line.starts_with(&wanted)), "{way} shows {shown:?}");
                }
                Ok(())
            })
            .await?;
            slowest = slowest.max(asked.elapsed());
        }
    }
    println!("the slowest event came after {slowest:?}");

    // Leases are renewed all the time, so the ways are compared up to what one of them has shown by now.
    for collection in &collections {
        let by_now = WAYS.map(|way| of(way, collection));
        let most = by_now.iter().max_by_key(|shown| shown.len()).cloned().unwrap_or_default();
        until(&format!("the same events of {collection}"), EVENT_WITHIN, || async {
            for way in WAYS {
                let shown = of(way, collection);
                ensure!(shown.starts_with(&most), "{way} shows {shown:?} instead of {most:?}");
            }
            Ok(())
        })
        .await?;
    }
    if let Some(ended) = watches.try_join_next() {
        bail!("a watch does not stay open: {:?}", ended?);
    }
    Ok(())
}
