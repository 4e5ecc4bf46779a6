//! kube-rs: watches and sessions of programs in Rust.

use crate::prepare::{self, SOON};
use anyhow::{Context, Result, ensure};
use e2e::{client, wire::block};
use futures::{TryStreamExt, pin_mut};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{
    Api, Client,
    api::{AttachParams, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
};
use lab::Lab;
use serde_json::json;
use std::sync::Arc;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

pub async fn kube_rs_sees_and_does_alike(lab: Arc<Lab>) -> Result<()> {
    let namespace = "kube-rs";
    lab.create_namespace(namespace).await?;
    prepare::talker(&lab, namespace).await?;
    prepare::echo(&lab, namespace).await?;
    let mut seen = Vec::new();
    for kubeconfig in [lab.kubeconfig_direct(), lab.kubeconfig()?] {
        let client = client::kube_rs(kubeconfig).await?;
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let used = async {
            let events = watched(&client, namespace).await.context("a watch")?;
            let ended = executed(&pods).await.context("exec")?;
            attached(&pods).await.context("attach")?;
            forwarded(&pods).await.context("a forwarded port")?;
            let refused = pods.exec("absent", ["true"], &AttachParams::default()).await;
            let refused = refused.err().context("a session of a pod that is not there")?.to_string();
            anyhow::Ok(format!("{events:?}\n{ended}\n{refused}"))
        };
        let used = timeout(SOON, used).await.context("it stands still");
        seen.push(used.flatten().with_context(|| format!("with {}", kubeconfig.display()))?);
    }
    let [straight, through] = seen.as_slice() else { anyhow::bail!("{seen:?}") };
    ensure!(straight == through, "straight {straight}\nthrough the agent {through}");
    Ok(())
}

/// What a watch shows while an object comes, changes and goes.
async fn watched(client: &Client, namespace: &str) -> Result<Vec<String>> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let version = api.list(&ListParams::default()).await?.metadata.resource_version.context("a list has no version")?;
    let events = api.watch(&WatchParams::default(), &version).await?;
    pin_mut!(events);
    let mut seen = Vec::new();
    let object = serde_json::from_value(json!({"metadata": {"name": "one"}, "data": {"a": "b"}}))?;
    api.create(&PostParams::default(), &object).await?;
    while let Some(event) = events.try_next().await? {
        let (kind, object) = match &event {
            WatchEvent::Added(object) => ("added", object),
            WatchEvent::Modified(object) => ("modified", object),
            WatchEvent::Deleted(object) => ("deleted", object),
            WatchEvent::Bookmark(_) => continue,
            WatchEvent::Error(error) => anyhow::bail!("{error:?}"),
        };
        seen.push(format!("{kind} {:?} {:?}", object.metadata.name, object.data));
        match kind {
            "added" => {
                let change = Patch::Merge(json!({"data": {"c": "d"}}));
                api.patch("one", &PatchParams::default(), &change).await?;
            }
            "modified" => drop(api.delete("one", &DeleteParams::default()).await?),
            _ => return Ok(seen),
        }
    }
    anyhow::bail!("the watch ends after {seen:?}")
}

/// Both outputs of a command, and how it ended.
async fn executed(pods: &Api<Pod>) -> Result<String> {
    let script = "echo first; cat; echo second >&2; exit 3";
    let parameters = AttachParams::default().stdin(true);
    let mut session = pods.exec("echo", ["sh", "-c", script], &parameters).await?;
    let mut input = session.stdin().context("no stdin")?;
    let mut stdout = session.stdout().context("no stdout")?;
    let mut stderr = session.stderr().context("no stderr")?;
    let status = session.take_status().context("no status")?;
    // More than is on the way at once: read while it is written.
    let sent = block(1);
    let write = async {
        input.write_all(&sent).await?;
        input.shutdown().await
    };
    let (mut said, mut complained) = (Vec::new(), String::new());
    tokio::try_join!(write, stdout.read_to_end(&mut said), stderr.read_to_string(&mut complained))?;
    ensure!(said == [b"first\n", sent.as_slice()].concat(), "{} bytes come back changed", said.len());
    let status = status.await.context("no status")?;
    session.join().await?;
    Ok(format!("{complained}{status:?}"))
}

async fn attached(pods: &Api<Pod>) -> Result<()> {
    let mut session = pods.attach(prepare::TALKER, &AttachParams::default().stdin(true)).await?;
    let mut input = session.stdin().context("no stdin")?;
    input.write_all(b"x\n").await?;
    let mut said = [0; 6];
    session.stdout().context("no stdout")?.read_exact(&mut said).await?;
    ensure!(&said == b"got x\n", "{said:?}");
    Ok(())
}

async fn forwarded(pods: &Api<Pod>) -> Result<()> {
    let mut forward = pods.portforward("echo", &[7000]).await?;
    let mut stream = forward.take_stream(7000).context("no stream")?;
    let sent = block(2);
    stream.write_all(&sent).await?;
    let mut back = vec![0; sent.len()];
    stream.read_exact(&mut back).await?;
    ensure!(back == sent, "the echo is changed");
    drop(stream);
    Ok(forward.join().await?)
}
