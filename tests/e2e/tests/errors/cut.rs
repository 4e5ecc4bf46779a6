//! Bodies that end too early.

use anyhow::{Context, Result, ensure};
use e2e::{Front, Protocol};
use futures::{StreamExt, TryStreamExt, stream};
use lab::Lab;
use reqwest::{Method, header::CONTENT_TYPE};
use std::{sync::Arc, time::Duration};
use tokio::io::AsyncReadExt;

/// Together far more than all the buffers on the way hold: sockets, windows of two protocols, credit on the bus.
const COUNT: usize = 64;
const SIZE: usize = 900_000;
const PATH: &str = "/api/v1/namespaces/cut/configmaps";
const END_WITHIN: Duration = Duration::from_secs(30);
const BACK_WITHIN: Duration = Duration::from_secs(20);

pub async fn a_body_that_is_cut_off_is_never_taken_for_a_whole_one(lab: Arc<Lab>) -> Result<()> {
    lab.admin().stdout(&["create", "namespace", "cut"]).await?;
    let direct = Front::direct(&lab, Protocol::Http1)?;
    let text = "0123456789abcdef".repeat(SIZE / 16);
    let objects = stream::iter(0..COUNT).map(|number| {
        let body = format!(r#"{{"metadata":{{"name":"part-{number}"}},"data":{{"text":"{text}"}}}}"#);
        let request = direct.request(Method::POST, PATH).header(CONTENT_TYPE, "application/json").body(body);
        async move { anyhow::Ok(request.send().await?.error_for_status()?.bytes().await?) }
    });
    objects.buffer_unordered(4).try_for_each(|_| async { Ok(()) }).await.context("cannot create the objects")?;

    for process in ["kube-apiserver", "proxy-executor", "nats-server", "gateway-link", "control-plane"] {
        let outcome = cut(&lab, process).await.with_context(|| format!("{process} killed during an answer"));
        lab.process(process)?.start().await?;
        lab.wait_ready(BACK_WITHIN).await.with_context(|| format!("after the end of {process}"))?;
        outcome?;
    }
    lab.admin().stdout(&["delete", "namespace", "cut", "--wait=false"]).await?;
    Ok(())
}

/// Reads the beginning of the list three ways, kills `process`, and reads on.
async fn cut(lab: &Lab, process: &str) -> Result<()> {
    // It prints as it reads, so that a full pipe makes it stop reading.
    let mut kubectl = lab.proxied()?.spawn(&["get", "--raw", PATH, "--disable-compression"])?;
    let mut stdout = kubectl.stdout.take().context("no stdout")?;
    let mut stderr = kubectl.stderr.take().context("no stderr")?;
    let mut start = vec![0; 1000];
    stdout.read_exact(&mut start).await.context("kubectl printed nothing")?;
    let mut answers = Vec::new();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let mut response = Front::through(lab, protocol)?.get(PATH).send().await?.error_for_status()?;
        response.chunk().await?.context("an empty body")?;
        answers.push((protocol, response));
    }

    lab.process(process)?.kill().await?;

    let rest = async {
        let (mut text, mut said) = (Vec::new(), String::new());
        let read = tokio::try_join!(stdout.read_to_end(&mut text), stderr.read_to_string(&mut said));
        read.context("cannot read what kubectl prints")?;
        anyhow::Ok((kubectl.wait().await?, text.len(), said))
    };
    let (status, length, said) = tokio::time::timeout(END_WITHIN, rest).await.context("kubectl does not end")??;
    ensure!(
        length < COUNT * SIZE,
        "kubectl got all of it: the buffers on the way are larger than this test takes them for"
    );
    ensure!(status.code() == Some(1), "kubectl ended with {status} after {length} bytes: {said}");
    ensure!(said.starts_with("error: ") || said.starts_with("Error from server"), "kubectl said {said:?}");
    ensure!(
        ["stream error", "unexpected EOF", "connection reset", "http2: "].iter().any(|sign| said.contains(sign)),
        "kubectl does not say that the answer was cut off: {said:?}"
    );

    for (protocol, mut response) in answers {
        let rest = async {
            let mut length = 0;
            loop {
                match response.chunk().await {
                    Ok(Some(chunk)) => length += chunk.len(),
                    end => return (end, length),
                }
            }
        };
        let (end, length) =
            tokio::time::timeout(END_WITHIN, rest).await.with_context(|| format!("{protocol:?} does not end"))?;
        ensure!(end.is_err(), "a client of {protocol:?} takes {length} bytes for the whole answer");
    }
    Ok(())
}
