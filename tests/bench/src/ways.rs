//! The two ways that every bench compares: straight, and through the agent.

use crate::client::{Route, Target, Tls};
use anyhow::{Context, Result};
use lab::Lab;
use std::net::SocketAddr;

const NAMESPACE: &str = "default";
const ACCOUNT: &str = "bench";

/// To the API server, as a ServiceAccount that may do anything: the executor's requests carry such a token too.
pub(crate) async fn direct(lab: &Lab) -> Result<Target> {
    let address = address(lab.api_url())?;
    let ca = lab.folder().join("pki/ca.crt");
    let ca = std::fs::read_to_string(ca).context("cannot read the cluster's CA")?;
    let account = format!("--serviceaccount={NAMESPACE}:{ACCOUNT}");
    let kubectl = lab.admin();
    kubectl.stdout(&["create", "serviceaccount", ACCOUNT, "-n", NAMESPACE]).await?;
    kubectl.stdout(&["create", "clusterrolebinding", ACCOUNT, "--clusterrole=cluster-admin", &account]).await?;
    let token = kubectl.stdout(&["create", "token", ACCOUNT, "-n", NAMESPACE, "--duration=24h"]).await?;
    Ok(Target {
        name: "direct",
        route: Route::Tcp(address),
        tls: Some(Tls::trusting(&ca, address.ip())?),
        prefix: String::new(),
        token: Some(token.trim().to_owned()),
    })
}

/// To the control plane, as the lab's user.
pub(crate) fn through_agent(lab: &Lab) -> Result<Target> {
    let url = lab.url()?;
    let address = address(url)?;
    Ok(Target {
        name: "pipeops",
        route: Route::Tcp(address),
        tls: Some(Tls::trusting(lab.ca_pem()?, address.ip())?),
        prefix: lab.proxy_url()?.strip_prefix(url).unwrap_or_default().to_owned(),
        token: Some(lab.user_token()?.to_owned()),
    })
}

/// `https://ADDRESS:PORT` as an address.
pub(crate) fn address(url: &str) -> Result<SocketAddr> {
    let address = url.trim_start_matches("https://");
    address.parse().with_context(|| format!("{url} is no address and port"))
}
