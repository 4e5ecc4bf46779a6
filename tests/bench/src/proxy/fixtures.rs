//! What the requests ask for.

use super::{Scale, rows::Row, subjects::Subject};
use crate::{
    client::{Connection, Target},
    load,
};
use anyhow::{Result, ensure};
use futures::future::try_join_all;
use lab::{Lab, until};
use serde::Serialize;
use std::{cell::Cell, collections::BTreeMap, time::Duration};

const WRITERS: usize = 8;
const JSON: &str = "application/json";
/// 800 ConfigMaps with this much text make a LIST of 2.4 MB.
const LIST: (usize, usize) = (800, 2600);
/// A ConfigMap with this much text has 430 bytes, with what the API server adds.
const SMALL: usize = 32;
const NAMESPACES: [&str; 4] = ["bench-small", "bench-list", "bench-pods", "bench-watch"];
const NAMESPACE_READY_WITHIN: Duration = Duration::from_secs(30);

/// Paths of what there is.
pub(super) struct Fixtures {
    pub(super) small: String,
    pub(super) list: String,
    pub(super) pods: String,
    /// The ConfigMap whose changes are watched, and its collection.
    pub(super) watched: String,
    pub(super) watched_in: String,
    /// Straight to the API server, for writing.
    pub(super) writer: Target,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Object<'a> {
    api_version: &'a str,
    kind: &'a str,
    metadata: Metadata<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<BTreeMap<&'a str, String>>,
}

#[derive(Serialize)]
struct Metadata<'a> {
    name: &'a str,
}

impl Fixtures {
    /// Makes what the rows need.
    pub(super) async fn create(lab: &Lab, direct: &Subject, scale: Scale, rows: &[Row]) -> Result<Self> {
        let target = &direct.api;
        let mut connections = load::connect(target, WRITERS).await?;
        for namespace in NAMESPACES {
            let body = object("Namespace", namespace, None)?;
            create(&mut connections, target, "/api/v1/namespaces", 1, |_| Ok(body.clone())).await?;
        }
        let [small, list, pods, watched_in] = NAMESPACES.map(|name| format!("/api/v1/namespaces/{name}"));
        let (small, list, pods, watched_in) = (
            format!("{small}/configmaps"),
            format!("{list}/configmaps"),
            format!("{pods}/pods"),
            format!("{watched_in}/configmaps"),
        );
        create(&mut connections, target, &small, 1, |_| configmap("small", SMALL)).await?;
        create(&mut connections, target, &watched_in, 1, |_| configmap("watched", SMALL)).await?;
        if rows.iter().any(|row| matches!(row, Row::List1 | Row::List8)) {
            let (count, text) = LIST;
            create(&mut connections, target, &list, count, |at| configmap(&format!("item-{at:04}"), text)).await?;
        }
        if rows.contains(&Row::ListPods) {
            // Pods are refused until the controllers have made it.
            until("the namespace's ServiceAccount", NAMESPACE_READY_WITHIN, || async {
                lab.admin().stdout(&["get", "serviceaccount", "default", "-n", "bench-pods"]).await
            })
            .await?;
            let pod = |at| Ok(include_str!("pod.json").replace("NAME", &format!("checkout-6b7c5d8f9-{at:05}")));
            create(&mut connections, target, &pods, scale.pods, pod).await?;
        }
        Ok(Self {
            small: format!("{small}/small"),
            list,
            pods,
            watched: format!("{watched_in}/watched"),
            watched_in,
            writer: target.clone(),
        })
    }
}

async fn create(
    connections: &mut [Connection],
    target: &Target,
    path: &str,
    count: usize,
    body: impl Fn(usize) -> Result<String>,
) -> Result<()> {
    let next = Cell::new(0);
    let (next, body) = (&next, &body);
    let writers = connections.iter_mut().map(|connection| async move {
        while next.get() < count {
            let at = next.replace(next.get() + 1);
            connection.fetch(&target.with_body("POST", path, JSON, &body(at)?)).await?;
        }
        anyhow::Ok(())
    });
    try_join_all(writers).await?;
    ensure!(next.get() == count, "{} of {count} objects in {path}", next.get());
    Ok(())
}

fn configmap(name: &str, text: usize) -> Result<String> {
    let data = BTreeMap::from([("text", "x".repeat(text))]);
    object("ConfigMap", name, Some(data))
}

fn object(kind: &str, name: &str, data: Option<BTreeMap<&str, String>>) -> Result<String> {
    Ok(serde_json::to_string(&Object { api_version: "v1", kind, metadata: Metadata { name }, data })?)
}
