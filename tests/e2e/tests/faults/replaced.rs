//! Credentials that are replaced while requests go on.

use crate::breaking;
use anyhow::{Context, Result, ensure};
use e2e::{Front, Protocol, stage::Stage};
use lab::until;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use std::{
    fs,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const EXECUTOR: &str = "proxy-executor";
const ACCOUNT: &str = "pipeops-agent-proxy-executor";
const NAMESPACE: &str = "pipeops-system";
const GOOD_WITHIN: Duration = Duration::from_secs(15);
/// The API server looks at its files every minute, if nothing tells it that they have changed.
const SERVED_WITHIN: Duration = Duration::from_secs(90);
/// The executor's look at its file, and the API server's memory of tokens that were valid.
const NOTICED_WITHIN: Duration = Duration::from_secs(30);
/// More than the executor can have open already: most of these need a new connection.
const WATCHES: usize = 100;
const WATCH: &str = "/api/v1/namespaces/default/configmaps?watch=1";

pub async fn the_api_servers_certificate_and_the_agents_token_are_replaced_unnoticed(stage: &Stage) -> Result<()> {
    let replaced = replaced_unnoticed(stage).await;
    let restored = async {
        // The lab's own: the next test's processes are started with them.
        stage.lab.renew_tokens().await?;
        let secrets = ["delete", "secret", "first", "second", "-n", NAMESPACE, "--ignore-not-found"];
        stage.lab.admin().stdout(&secrets).await
    };
    let restored = restored.await;
    replaced.and(restored.map(drop))
}

async fn replaced_unnoticed(stage: &Stage) -> Result<()> {
    let lab = &stage.lab;
    let pid = stage.process(EXECUTOR)?.pid();
    let load = breaking::load(stage).await?;
    load.good_since(Instant::now(), GOOD_WITHIN).await?;
    load.report()?;

    let before = served_certificate(stage).await?;
    lab.renew_api_certificate()?;
    until("the API server to serve its new certificate", SERVED_WITHIN, || async {
        ensure!(served_certificate(stage).await? != before, "it is the old one");
        anyhow::Ok(())
    })
    .await?;
    let front = Front::through(lab, Protocol::Http2)?;
    let mut watches = Vec::new();
    for _ in 0..WATCHES {
        watches.push(front.get(WATCH).send().await?.error_for_status()?);
    }

    let first = bound_token(stage, "first").await?;
    in_use(stage, &first).await?;
    let second = bound_token(stage, "second").await?;
    in_use(stage, &second).await?;
    lab.admin().stdout(&["delete", "secret", "first", "-n", NAMESPACE]).await?;
    let outdated = lab.direct_with_token("outdated", &first)?;
    until("the first token to be refused", NOTICED_WITHIN, || async {
        let answer = outdated.run(&["get", "--raw", "/version"]).await?;
        ensure!(answer.stderr.contains("Unauthorized"), "{answer:?}");
        anyhow::Ok(())
    })
    .await?;
    load.good_since(Instant::now(), GOOD_WITHIN).await?;

    let (complete, failed) = load.report()?;
    println!("certificate and token replaced: {complete} answers whole, failures {failed:?}");
    ensure!(failed.is_empty(), "requests have failed: {failed:?}");
    ensure!(stage.process(EXECUTOR)?.pid() == pid, "{EXECUTOR} was restarted");
    drop(watches);
    Ok(())
}

/// A token of the executor's that is valid for as long as a Secret of this name exists.
async fn bound_token(stage: &Stage, secret: &str) -> Result<String> {
    let kubectl = stage.lab.admin();
    kubectl.stdout(&["create", "secret", "generic", secret, "-n", NAMESPACE]).await?;
    let bound = format!("--bound-object-name={secret}");
    let token = ["create", "token", ACCOUNT, "-n", NAMESPACE, "--bound-object-kind=Secret", &bound, "--duration=600s"];
    Ok(kubectl.stdout(&token).await?.trim().to_owned())
}

/// Gives the executor the token, and waits until requests carry it.
async fn in_use(stage: &Stage, token: &str) -> Result<()> {
    let executor = stage.process(EXECUTOR)?;
    let file = executor.spec().env.get("PIPEOPS_KUBERNETES_TOKEN_FILE").context("it reads no token")?.clone();
    let replaced = || executor.log_tail(usize::MAX).matches("the ServiceAccount token was replaced").count();
    let before = replaced();
    let next = format!("{file}.next");
    fs::write(&next, token)?;
    fs::rename(&next, &file)?;
    until("the executor to use its new token", NOTICED_WITHIN, || async {
        ensure!(replaced() > before, "it says nothing of it");
        anyhow::Ok(())
    })
    .await
}

async fn served_certificate(stage: &Stage) -> Result<CertificateDer<'static>> {
    let address: SocketAddr = stage.lab.api_url().trim_start_matches("https://").parse()?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(stage.lab.folder().join("pki/ca.crt"))?)?;
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let tcp = TcpStream::connect(address).await?;
    let tls = TlsConnector::from(Arc::new(config)).connect(ServerName::IpAddress(address.ip().into()), tcp).await?;
    let (_, connection) = tls.get_ref();
    let certificate = connection.peer_certificates().and_then(<[_]>::first).context("it shows no certificate")?;
    Ok(certificate.clone().into_owned())
}
