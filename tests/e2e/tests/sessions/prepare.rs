//! Pods for the tests.

use anyhow::{Context, Result};
use lab::{Lab, TOOLS_IMAGE, until};
use std::time::Duration;

pub const SOON: Duration = Duration::from_secs(60);

/// An empty namespace that takes pods.
pub async fn namespace(lab: &Lab, name: &str) -> Result<()> {
    lab.admin().stdout(&["create", "namespace", name]).await?;
    until("the namespace's ServiceAccount and ConfigMap", SOON, || async {
        lab.admin().stdout(&["get", "serviceaccount/default", "configmap/kube-root-ca.crt", "-n", name]).await
    })
    .await?;
    Ok(())
}

/// A pod that runs a shell command, once it is ready.
pub async fn pod(lab: &Lab, namespace: &str, name: &str, command: &str) -> Result<()> {
    let image = format!("--image={TOOLS_IMAGE}");
    let run = ["run", name, &image, "-n", namespace, "--restart=Never", "--", "sh", "-c", command];
    lab.admin().stdout(&run).await?;
    let pod = format!("pod/{name}");
    let wait = ["wait", "--for=condition=Ready", &pod, "-n", namespace, "--timeout=60s"];
    lab.admin().stdout(&wait).await.with_context(|| format!("pod {name} does not start"))?;
    Ok(())
}
