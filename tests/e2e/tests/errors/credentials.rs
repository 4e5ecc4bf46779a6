//! The executor's own credentials are files that the cluster replaces: what is wrong with them is said, and what is put in their place
//! is used without a restart.

use crate::show::quick_failure;
use anyhow::{Context, Result, ensure};
use e2e::{Front, Protocol};
use lab::{Lab, until};
use serde_json::Value;
use std::{fs, sync::Arc, time::Duration};

const EXECUTOR: &str = "proxy-executor";
const WATCH: &str = "/api/v1/namespaces/default/configmaps?watch=1";
const LIST: [&str; 3] = ["get", "--raw", "/api/v1/namespaces"];
/// A token is kept for 5 s at most.
const NOTICED_WITHIN: Duration = Duration::from_secs(10);
const USED_WITHIN: Duration = Duration::from_secs(10);
const READY_WITHIN: Duration = Duration::from_secs(20);

/// Where the executor finds its file.
fn file(lab: &Lab, variable: &str) -> Result<String> {
    let executor = lab.process(EXECUTOR)?;
    executor.spec().env.get(variable).cloned().with_context(|| format!("{EXECUTOR} has no {variable}"))
}

/// As the kubelet: a reader sees the old content or the new.
fn replace(file: &str, content: &str) -> Result<()> {
    let next = format!("{file}.next");
    fs::write(&next, content).with_context(|| format!("cannot write {next}"))?;
    fs::rename(&next, file).with_context(|| format!("cannot replace {file}"))
}

pub async fn a_bad_token_of_the_executor_is_said_and_a_new_one_used(lab: Arc<Lab>) -> Result<()> {
    let (kubectl, token) = (lab.proxied()?, file(&lab, "PIPEOPS_KUBERNETES_TOKEN_FILE")?);
    let pid = lab.process(EXECUTOR)?.pid();
    let refused =
        "the API server refused the agent's own credentials (401); the token file is read again for the next request";
    let unusable = format!("{token:?} does not hold a token that fits a header");
    for (content, reason) in [("nonsense", refused), ("two\nlines", &unusable)] {
        let wanted = format!("Error from server (ServiceUnavailable): {reason}");
        replace(&token, content)?;
        let said = until("the reason", NOTICED_WITHIN, || async {
            let said = quick_failure(kubectl, &LIST).await?;
            ensure!(said == wanted, "{said}");
            Ok(())
        });
        let said = said.await;
        lab.renew_tokens().await?;
        said.with_context(|| format!("{content:?} as the token"))?;
        until("an answer with the new token", USED_WITHIN, || kubectl.stdout(&LIST)).await?;
    }
    ensure!(lab.process(EXECUTOR)?.pid() == pid, "{EXECUTOR} was restarted");
    lab.wait_ready(READY_WITHIN).await
}

pub async fn a_wrong_ca_of_the_api_server_is_said_and_the_right_one_used(lab: Arc<Lab>) -> Result<()> {
    let (kubectl, ca) = (lab.proxied()?, file(&lab, "PIPEOPS_KUBERNETES_CA_FILE")?);
    let pid = lab.process(EXECUTOR)?.pid();
    let right = fs::read_to_string(&ca)?;
    let api = Front::through(&lab, Protocol::Http2)?;
    let unusable = format!("there is no certificate in {ca:?}");
    let address = lab.api_url().trim_start_matches("https://");
    let other =
        format!("TLS handshake with the API server at {address} failed: invalid peer certificate: UnknownIssuer");
    for (content, wanted) in [("nonsense", &unusable), (lab.ca_pem()?, &other)] {
        replace(&ca, content)?;
        // Only new connections look at the file: each that was there already is given a watch, which keeps it.
        let mut watches = Vec::new();
        let said = async {
            loop {
                let response = api.get(WATCH).send().await?;
                if response.status() == 200 {
                    ensure!(watches.len() < 300, "the executor connects with {content:?} as the CA");
                    watches.push(response);
                    continue;
                }
                let (code, status) = (response.status(), response.json::<Value>().await?);
                let said = status.pointer("/message").and_then(Value::as_str);
                ensure!(code == 503 && said == Some(wanted), "{code}: {status}");
                return Ok(());
            }
        };
        let said = said.await;
        replace(&ca, &right)?;
        said?;
        until("an answer by the right CA", USED_WITHIN, || kubectl.stdout(&LIST)).await?;
    }
    ensure!(lab.process(EXECUTOR)?.pid() == pid, "{EXECUTOR} was restarted");
    lab.wait_ready(READY_WITHIN).await
}
