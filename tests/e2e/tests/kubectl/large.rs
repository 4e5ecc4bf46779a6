//! A list of 5,000 objects.

use anyhow::{Context, Result, ensure};
use e2e::{Front, Protocol, Step, Story};
use futures::{StreamExt, TryStreamExt, stream};
use lab::Lab;
use reqwest::{Method, header::CONTENT_TYPE};
use serde_json::Value;
use std::sync::Arc;

const COUNT: usize = 5000;
const AT_ONCE: usize = 64;
const PATH: &str = "/api/v1/namespaces/large/configmaps";

pub async fn five_thousand_objects_are_listed_alike_paged_and_unpaged(lab: Arc<Lab>) -> Result<()> {
    lab.create_namespace("large").await?;
    let direct = Front::direct(&lab, Protocol::Http2)?;
    stream::iter(0..COUNT)
        .map(|number| {
            let request = direct.request(Method::POST, PATH).header(CONTENT_TYPE, "application/json");
            let body = format!(
                r#"{{"metadata":{{"name":"item-{number:04}","labels":{{"bucket":"{}"}}}},"data":{{"text":"{}"}}}}"#,
                number % 10,
                format!("{number} ").repeat(40)
            );
            async move { anyhow::Ok(request.body(body).send().await?.error_for_status()?.bytes().await?) }
        })
        .buffer_unordered(AT_ONCE)
        .try_for_each(|_| async { Ok(()) })
        .await
        .context("cannot create the objects")?;

    let kubectl = |line: &str| Step::kubectl(&format!("{line} -n large"));
    Story::new([
        kubectl("get configmaps"),
        kubectl("get configmaps --chunk-size=0"),
        kubectl("get configmaps --chunk-size=77 -o name"),
        kubectl("get configmaps -o json"),
        kubectl("get configmaps -l bucket=3 --show-labels"),
        Step::kubectl(&format!("get --raw {PATH}?limit=5000")),
    ])
    .same_at_once(&lab)
    .await?;

    let names = lab.kubectl(&["get", "configmaps", "-n", "large", "-o", "name", "-l", "bucket"]).await?.stdout;
    ensure!(names.lines().count() == COUNT, "{} names", names.lines().count());
    ensure!(names.lines().last() == Some("configmap/item-4999"), "the last is {:?}", names.lines().last());

    // Pages by hand: each request carries the last one's token.
    let through = Front::through(&lab, Protocol::Http1)?;
    let (mut seen, mut pages, mut next) = (0, 0, String::new());
    loop {
        let path = format!("{PATH}?labelSelector=bucket&limit=500&continue={next}");
        let page: Value = through.get(&path).send().await?.error_for_status()?.json().await?;
        seen += page.pointer("/items").and_then(Value::as_array).map_or(0, Vec::len);
        pages += 1;
        match page.pointer("/metadata/continue").and_then(Value::as_str) {
            Some(token) if !token.is_empty() => token.clone_into(&mut next),
            _ => break,
        }
    }
    // The API server may notice only with an empty page that the last one was full.
    let pages_needed = COUNT / 500;
    ensure!(seen == COUNT && (pages_needed..=pages_needed + 1).contains(&pages), "{seen} objects in {pages} pages");
    Ok(())
}
