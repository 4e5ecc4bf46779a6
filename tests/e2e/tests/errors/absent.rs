//! Parts that are not there: the reason reaches the user at once, and the way is open again when they are back.

use crate::show::quick_failure;
use anyhow::{Result, ensure};
use lab::{Lab, until};
use std::{sync::Arc, time::Duration};

const NOTICED_WITHIN: Duration = Duration::from_secs(10);
const BACK_WITHIN: Duration = Duration::from_secs(20);

/// Ends `process`, looks at what a warm kubectl, a new one and a bare request say, and starts it again.
async fn without(lab: &Lab, process: &str, wanted: &str, generic: &str) -> Result<()> {
    let kubectl = lab.proxied()?;
    kubectl.stdout(&["get", "configmaps"]).await?;
    let gone = lab.process(process)?;
    gone.kill().await?;
    let looked = async {
        // Until the peers have noticed, requests may still fail in other ways, but never succeed and never hang.
        let said = until("the reason", NOTICED_WITHIN, || async {
            let said = quick_failure(kubectl, &["get", "configmaps"]).await?;
            ensure!(said.starts_with(wanted), "{said}");
            anyhow::Ok(said)
        })
        .await?;
        ensure!(said.lines().count() == 1, "more than the error: {said}");
        let raw = quick_failure(kubectl, &["get", "--raw", "/api/v1/namespaces"]).await?;
        ensure!(raw.starts_with(wanted), "{raw}");
        let cache = lab.folder().join(format!("cache-{process}")).display().to_string();
        let first = quick_failure(kubectl, &["get", "configmaps", "--cache-dir", &cache]).await?;
        let reason = wanted.split_once("): ").map_or(wanted, |(_, reason)| reason);
        ensure!(first.starts_with(&format!("Warning: {reason}")), "{first}");
        ensure!(first.lines().last() == Some(generic), "{first}");
        anyhow::Ok(())
    };
    let looked = looked.await;
    gone.start().await?;
    lab.wait_ready(BACK_WITHIN).await?;
    looked
}

const UNAVAILABLE: &str =
    "Error from server (ServiceUnavailable): the server is currently unable to handle the request";

pub async fn without_an_agent_requests_fail_at_once(lab: Arc<Lab>) -> Result<()> {
    let wanted = r#"Error from server (ServiceUnavailable): cluster "lab" is offline: its agent is not connected; it was last seen at <time>"#;
    without(&lab, "gateway-link", wanted, UNAVAILABLE).await
}

pub async fn without_an_executor_requests_fail_at_once(lab: Arc<Lab>) -> Result<()> {
    let wanted = "Error from server (ServiceUnavailable): the request did not reach the cluster's API server: no proxy-executor is running in the cluster";
    without(&lab, "proxy-executor", wanted, UNAVAILABLE).await
}

pub async fn without_the_bus_requests_fail_at_once(lab: Arc<Lab>) -> Result<()> {
    let wanted =
        "Error from server (ServiceUnavailable): the request did not reach the cluster's API server: bus unavailable: ";
    without(&lab, "nats-server", wanted, UNAVAILABLE).await
}

pub async fn without_an_api_server_requests_fail_at_once(lab: Arc<Lab>) -> Result<()> {
    let address = lab.api_url().trim_start_matches("https://");
    let wanted = format!("Error from server (ServiceUnavailable): cannot connect to the API server at {address}");
    without(&lab, "kube-apiserver", &wanted, UNAVAILABLE).await
}
