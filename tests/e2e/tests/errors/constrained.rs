//! Impersonation that the API server itself limits.

use anyhow::{Result, ensure};
use lab::{Lab, until};
use std::{sync::Arc, time::Duration};

const SOON: Duration = Duration::from_secs(10);
const NAMESPACE: &str = "pipeops-system";

pub async fn with_constrained_rights_users_work_and_nobody_greater_can_be_named(lab: Arc<Lab>) -> Result<()> {
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../../charts/pipeops-agent");
    let constrained = "proxy-executor.rbac.impersonate.constrained=true";
    upgrade(&lab, &["upgrade", "pipeops-agent", chart, "--reuse-values", "--set", constrained]).await?;

    // The old right may be known to the API server for a moment longer, and then every name is accepted.
    let executor = format!("--as=system:serviceaccount:{NAMESPACE}:pipeops-agent-proxy-executor");
    until("the right to impersonate anybody to end", SOON, || async {
        let output = lab.admin().run(&["auth", "can-i", "impersonate", "users", &executor]).await?;
        ensure!(!output.success(), "{}", output.stdout);
        anyhow::Ok(())
    })
    .await?;
    for args in [
        &["create", "configmap", "constrained", "-n", "default"][..],
        &["get", "configmaps", "--all-namespaces"],
        &["label", "configmap", "constrained", "-n", "default", "a=b"],
        &["get", "--raw", "/version"],
        &["auth", "can-i", "create", "pods"],
        &["delete", "configmap", "constrained", "-n", "default"],
    ] {
        lab.proxied()?.stdout(args).await?;
    }

    let token = lab.admin().stdout(&["create", "token", "pipeops-agent-proxy-executor", "-n", NAMESPACE]).await?;
    let as_executor = lab.direct_with_token("executor", token.trim())?;
    as_executor.stdout(&["get", "namespaces", "--as=lab", "--as-group=lab:admins"]).await?;
    for greater in [
        &["--as=system:serviceaccount:kube-system:generic-garbage-collector"][..],
        &["--as=system:node:any"],
        &["--as=lab", "--as-group=system:masters"],
    ] {
        let output = as_executor.run(&[&["get", "namespaces"], greater].concat()).await?;
        ensure!(!output.success() && output.stderr.contains("Forbidden"), "{greater:?}: {output:?}");
    }

    upgrade(&lab, &["rollback", "pipeops-agent"]).await?;
    until("the rights as they were", SOON, || async { lab.proxied()?.stdout(&["get", "namespaces"]).await }).await?;
    Ok(())
}

/// helm on the installed agent, whose processes go on as they are: only the rights change.
async fn upgrade(lab: &Lab, args: &[&str]) -> Result<()> {
    let output = lab.helm_direct(&[args, &["-n", NAMESPACE]].concat()).await?;
    ensure!(output.success(), "helm {}: {}", args.join(" "), output.stderr);
    Ok(())
}
