//! What requests ask for.

use crate::{client::Target, load};
use anyhow::{Result, ensure};
use futures::future::try_join_all;
use serde_json::json;
use std::cell::Cell;

const WRITERS: usize = 8;
const JSON: &str = "application/json";

/// Creates `count` objects by POST, several at a time.
pub(crate) async fn create(target: &Target, path: &str, count: usize, body: impl Fn(usize) -> String) -> Result<()> {
    let mut connections = load::connect(target, count.min(WRITERS)).await?;
    let next = Cell::new(0);
    let (next, body) = (&next, &body);
    let writers = connections.iter_mut().map(|connection| async move {
        while next.get() < count {
            let at = next.replace(next.get() + 1);
            connection.fetch(&target.with_body("POST", path, JSON, &body(at))).await?;
        }
        anyhow::Ok(())
    });
    try_join_all(writers).await?;
    ensure!(next.get() == count, "{} of {count} objects in {path}", next.get());
    Ok(())
}

/// A ConfigMap with this much text.
pub(crate) fn configmap(name: &str, text: usize) -> String {
    let text = "x".repeat(text);
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { "text": text } })
        .to_string()
}

/// A pod as a Deployment makes them, which nothing starts.
pub(crate) fn pod(number: usize) -> String {
    include_str!("pod.json").replace("NAME", &format!("checkout-6b7c5d8f9-{number:05}"))
}
