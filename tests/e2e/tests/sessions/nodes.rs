//! Figures, and what controllers do with real pods.

use crate::prepare;
use anyhow::{Result, ensure};
use e2e::{Step, Story};
use lab::{Lab, Lines, NEXT_TOOLS_IMAGE, TOOLS_IMAGE};
use std::{sync::Arc, time::Duration};

/// The kubelet looks at a new container every 10 to 15 s, and two looks make a figure.
const FIGURES_WITHIN: Duration = Duration::from_secs(120);

pub async fn figures_of_pods_and_nodes_are_shown(lab: Arc<Lab>) -> Result<()> {
    let kubectl = lab.proxied()?;
    let agent = ["top", "pods", "-n", "pipeops-system", "--no-headers"];
    lab::until("figures of the agent's pods", FIGURES_WITHIN, || async {
        let shown = kubectl.stdout(&agent).await?;
        ensure!(shown.lines().count() == 5 && shown.contains("route-syncer"), "{shown}");
        anyhow::Ok(())
    })
    .await?;
    let node = kubectl.stdout(&["top", "node"]).await?;
    ensure!(node.starts_with("NAME") && node.contains("\nlab "), "{node}");
    Ok(())
}

pub async fn deployments_of_real_pods_are_rolled_out_alike(lab: Arc<Lab>) -> Result<()> {
    let namespace = "rollouts";
    lab.create_namespace(namespace).await?;
    let mut events = Lines::of(lab.proxied()?, &["events", "-n", namespace, "-w", "--no-headers"])?;
    let kubectl = |line: &str| Step::kubectl(&format!("{line} -n {namespace}"));
    let quick = r#"{"spec":{"template":{"spec":{"terminationGracePeriodSeconds":0}}}}"#;
    Story::new([
        kubectl(&format!("create deployment web --image={TOOLS_IMAGE} --replicas=1")),
        kubectl(&format!("patch deployment web -p '{quick}'")),
        kubectl("wait --for=condition=Available deployment/web --timeout=60s"),
        kubectl("scale deployment/web --replicas=3"),
        kubectl("wait --for=jsonpath={.status.readyReplicas}=3 deployment/web --timeout=60s"),
        kubectl(&format!("set image deployment/web tools={NEXT_TOOLS_IMAGE}")),
        kubectl("get deployment web -o jsonpath={.spec.template.spec.containers[0].image}"),
        kubectl("set env deployment/web A=b"),
        kubectl("wait --for=jsonpath={.status.updatedReplicas}=3 deployment/web --timeout=60s"),
        kubectl("rollout restart deployment/web"),
        kubectl("rollout undo deployment/web"),
        kubectl("delete deployment web --cascade=foreground"),
    ])
    .same_both_ways(&lab)
    .await?;
    let first = events.next(prepare::SOON).await?;
    ensure!(first.contains("Normal"), "{first}");
    Ok(())
}

pub async fn kubectl_proxy_serves_the_api_through_the_agent(lab: Arc<Lab>) -> Result<()> {
    // The server's URL has a path here, which kubectl proxy leaves out unless it is told otherwise.
    let mut proxy = Lines::of(lab.proxied()?, &["proxy", "--port=0", "--append-server-path"])?;
    let said = proxy.next(prepare::SOON).await?;
    let address = said.strip_prefix("Starting to serve on ").unwrap_or_default();
    let url = format!("http://{address}/api/v1/namespaces/kube-system");
    let body: serde_json::Value = reqwest::Client::builder().no_proxy().build()?.get(url).send().await?.json().await?;
    ensure!(body.pointer("/metadata/name").is_some_and(|name| name == "kube-system"), "{body}");
    Ok(())
}
