//! Commands that wait for something to happen. There is no node, so the tests play kubelet.

use anyhow::{Context, Result, ensure};
use e2e::normalise;
use lab::{Lab, Lines, Tool, until};
use std::{sync::Arc, time::Duration};

const SOON: Duration = Duration::from_secs(30);

const READY: &str = r#"{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}"#;

/// Makes a pod look as if it ran.
async fn play_kubelet(lab: &Lab, namespace: &str, pod: &str) -> Result<()> {
    let args = ["patch", "pod", pod, "-n", namespace, "--subresource=status", "--type=merge", "-p", READY];
    lab.admin().stdout(&args).await?;
    Ok(())
}

/// The pods there are, and that there are as many as expected.
async fn pods(lab: &Lab, namespace: &str, image: &str, count: usize) -> Result<Vec<String>> {
    until("the deployment's pods", SOON, || async {
        let path = format!("jsonpath={{.items[?(@.spec.containers[0].image=='{image}')].metadata.name}}");
        let names = lab.admin().stdout(&["get", "pods", "-n", namespace, "-o", &path]).await?;
        let names: Vec<String> = names.split_whitespace().map(str::to_owned).collect();
        ensure!(names.len() == count, "there are {names:?}");
        Ok(names)
    })
    .await
}

async fn rollout(lab: &Lab, tool: &Tool, namespace: &str) -> Result<Vec<String>> {
    let kubectl = async |line: &str| -> Result<String> {
        let args: Vec<&str> = line.split(' ').chain(["-n", namespace]).collect();
        let output = tool.run(&args).await?;
        Ok(normalise(&format!("{:?} {}{}", output.status.code(), output.stdout, output.stderr)))
    };
    let mut seen = vec![kubectl("create deployment web --image=example.com/web:1 --replicas=2").await?];
    for image in ["example.com/web:1", "example.com/web:2"] {
        if image.ends_with('2') {
            seen.push(kubectl("set image deployment/web web=example.com/web:2").await?);
        }
        let mut status = Lines::of(tool, &["rollout", "status", "deployment/web", "-n", namespace])?;
        // It waits before the first pod is ready, and says so.
        let first = status.next(SOON).await?;
        ensure!(first.starts_with("Waiting for deployment"), "{first:?}");
        let mut last = String::new();
        let follow = async {
            while !last.contains("successfully rolled out") {
                last = status.next(SOON).await?;
            }
            let (end, stderr) = status.end(SOON).await?;
            ensure!(end.success() && stderr.is_empty(), "{end}: {stderr}");
            Ok(())
        };
        // A new version is rolled out pod by pod, so that one is ready before the next appears.
        let kubelet = async {
            let names = pods(lab, namespace, image, if image.ends_with('2') { 1 } else { 2 }).await?;
            for name in &names {
                play_kubelet(lab, namespace, name).await?;
            }
            if image.ends_with('2') {
                for name in pods(lab, namespace, image, 2).await?.iter().filter(|name| !names.contains(name)) {
                    play_kubelet(lab, namespace, name).await?;
                }
            }
            anyhow::Ok(())
        };
        tokio::try_join!(follow, kubelet)?;
        seen.push(last);
    }
    for line in [
        "rollout history deployment/web",
        "rollout pause deployment/web",
        "rollout resume deployment/web",
        "rollout undo deployment/web --to-revision=1",
        "rollout undo deployment/web --to-revision=9",
        "delete deployment web --cascade=foreground",
    ] {
        seen.push(kubectl(line).await?);
    }
    // Its pods have no kubelet that would end them.
    lab.admin().stdout(&["delete", "pods", "--all", "--force", "-n", namespace]).await?;
    Ok(seen)
}

pub async fn rollouts_are_followed_alike(lab: Arc<Lab>) -> Result<()> {
    lab.create_namespace("rollout").await?;
    let straight = rollout(&lab, lab.direct(), "rollout").await.context("straight")?;
    let through = rollout(&lab, lab.proxied()?, "rollout").await.context("through the agent")?;
    ensure!(straight == through, "straight {straight:#?}\nthrough the agent {through:#?}");
    Ok(())
}

const POD: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"lone"},
    "spec":{"containers":[{"name":"main","image":"example.com/main:1"}]}}"#;

pub async fn waiting_ends_when_what_is_waited_for_happens(lab: Arc<Lab>) -> Result<()> {
    lab.create_namespace("waits").await?;
    let mut seen = Vec::new();
    for tool in [lab.direct(), lab.proxied()?] {
        tool.stdout_with_input(&["create", "-n", "waits", "-f", "-"], POD).await?;
        let impatient = ["wait", "--for=condition=Ready", "pod/lone", "-n", "waits", "--timeout=1s"];
        let impatient = tool.run(&impatient).await?;
        ensure!(impatient.status.code() == Some(1), "{impatient:?}");

        let mut ready = Lines::of(tool, &["wait", "--for=condition=Ready", "pod/lone", "-n", "waits"])?;
        let mut gone = Lines::of(tool, &["wait", "--for=delete", "pod/lone", "-n", "waits"])?;
        let first = async {
            ready.silent_for(Duration::from_secs(1)).await?;
            play_kubelet(&lab, "waits", "lone").await?;
            ready.next(SOON).await
        };
        let first = first.await.context("the condition")?;
        lab.admin().stdout(&["delete", "pod", "lone", "-n", "waits", "--force"]).await?;
        let second = gone.next(SOON).await.context("the deletion")?;
        for lines in [&mut ready, &mut gone] {
            let (status, stderr) = lines.end(SOON).await?;
            ensure!(status.success() && stderr.is_empty(), "{status}: {stderr}");
        }
        seen.push([impatient.stderr, first, second]);
    }
    ensure!(seen.first() == seen.last(), "{seen:?}");
    Ok(())
}
