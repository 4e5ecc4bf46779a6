//! Commands in pods.

use crate::{older, prepare};
use anyhow::{Context, Result, ensure};
use e2e::{Step, Story};
use lab::{Lab, TOOLS_IMAGE};
use std::sync::Arc;
use tokio::task::JoinSet;

const SESSIONS: usize = 100;
const AT_ONCE: usize = 20;

pub async fn commands_end_alike_over_every_transport(lab: Arc<Lab>) -> Result<()> {
    let namespace = "shells";
    lab.create_namespace(namespace).await?;
    lab.run_pod(namespace, "box", "trap 'exit 0' TERM; while :; do sleep 1; done").await?;
    let lines: String = (0..20_000).map(|number| format!("line {number}\n")).collect();
    let exec = |rest: &str| Step::kubectl(&format!("exec -n {namespace} {rest}"));
    // WebSocket is what kubectl takes first; SPDY is what it had before.
    for websockets in ["true", "false"] {
        let steps = [
            exec("box -- true"),
            exec("box -- false").ends_with(1),
            exec("box -- sh -c 'echo out; echo err >&2; exit 3'").ends_with(3),
            exec("box -- sh -c 'kill -9 $$'").ends_with(137),
            exec("box -- sh -c 'kill -15 $$'").ends_with(143),
            exec("-i box -- cat").input(&lines),
            exec("-i box -- sh -c 'head -c 5; exit 7'").input("more than it reads\n").ends_with(7),
            // With a code: one that ends with 0 right after it has copied loses it now and then on a busy machine, straight too.
            exec("-i box -- sh -c 'cat >&2; exit 5'").input("to stderr\n").ends_with(5),
            exec("box -- sh -c 'seq 1 50000; seq 1 1000 >&2'"),
            exec("box -- sh -c 'exec >&-; exec 2>&-; sleep 0.2'"),
            exec("box -- /absent").ends_with(1),
            exec("-c absent box -- true").ends_with(1),
            exec("absent -- true").ends_with(1),
            exec("box").ends_with(1),
        ];
        let steps = steps.map(|step| step.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets));
        Story::new(steps).same_both_ways(&lab).await.with_context(|| format!("with WebSockets {websockets}"))?;
    }
    Ok(())
}

pub async fn pods_are_run_attached_to_and_debugged_alike(lab: Arc<Lab>) -> Result<()> {
    let namespace = "runs";
    lab.create_namespace(namespace).await?;
    prepare::talker(&lab, namespace).await?;
    let kubectl = |line: &str| Step::kubectl(&format!("{line} -n {namespace}"));
    let run = format!("run one --image={TOOLS_IMAGE} --restart=Never --quiet -i --rm --");
    let before = format!("-n {namespace} {run} sh -c 'read line; echo got $line; exit");
    Story::new([
        Step::kubectl(&format!("{before} 0'")).input("a line\n"),
        Step::kubectl(&format!("{before} 5'")).input("a line\n").ends_with(5),
        kubectl("debug talker --image=lab.local/tools:1 --container=look --quiet --target=absent").ends_with(1),
        kubectl("debug absent --image=lab.local/tools:1").ends_with(1),
        kubectl("attach absent").ends_with(1),
        kubectl("attach talker -c absent").ends_with(1),
    ])
    .same_both_ways(&lab)
    .await?;
    for (tool, name) in [(lab.direct(), "straight"), (lab.proxied()?, "through")] {
        let container = format!("--container={name}");
        let debug = ["debug", "talker", "-n", namespace, "--image", TOOLS_IMAGE, &container, "--profile=general"];
        let said = tool.stdout(&[&debug[..], &["--", "sh", "-c", "sleep infinity"]].concat()).await?;
        ensure!(said.is_empty(), "{said}");
        lab::until("the debug container", prepare::SOON, || async {
            let args = ["exec", "talker", "-n", namespace, "-c", name, "--", "echo", "here"];
            let said = tool.stdout(&args).await?;
            ensure!(said == "here\n", "{said}");
            anyhow::Ok(())
        })
        .await?;
        let copy = format!("copy-of-{name}");
        let debug = ["debug", "talker", "-n", namespace, "--copy-to", &copy, "--image", TOOLS_IMAGE];
        tool.stdout(&[&debug[..], &["--container=debugger", "--", "sleep", "infinity"]].concat()).await?;
        let containers = ["get", "pod", &copy, "-n", namespace, "-o", "jsonpath={.spec.containers[*].name}"];
        let containers = tool.stdout(&containers).await?;
        ensure!(containers == "talker debugger", "{containers}");
        prepare::attach(tool, namespace).await?;
    }
    Ok(())
}

/// kubectl goes over to SPDY without a word when there is no WebSocket to be had, so the tests above would not notice.
pub async fn each_transport_is_the_one_asked_for(lab: Arc<Lab>) -> Result<()> {
    let namespace = "asked";
    lab.create_namespace(namespace).await?;
    lab.run_pod(namespace, "box", "sleep infinity").await?;
    let through = lab.proxied()?;
    for tool in [through.clone(), through.with_program(&older::kubectl().await?)] {
        for (websockets, verb) in [("true", "GET"), ("false", "POST")] {
            let tool = tool.clone().with_env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets);
            let said = tool.run(&["exec", "box", "-n", namespace, "-v=6", "--", "true"]).await?;
            ensure!(said.success(), "{said:?}");
            prepare::switched_once(&said.stderr, "exec", verb)?;
        }
    }
    Ok(())
}

/// The first bytes after an upgrade are those that get lost where a proxy reads ahead. More of them are in the sessions without kubectl.
pub async fn no_byte_of_many_sessions_is_lost(lab: Arc<Lab>) -> Result<()> {
    let namespace = "many";
    lab.create_namespace(namespace).await?;
    lab.run_pod(namespace, "box", "sleep infinity").await?;
    let mut sessions = JoinSet::new();
    for number in 0..SESSIONS {
        if sessions.len() == AT_ONCE
            && let Some(ended) = sessions.join_next().await
        {
            ended.context("a session's task ended early")??;
        }
        let kubectl = lab.proxied()?.clone();
        sessions.spawn(async move {
            let code = number % 3;
            let script = format!("echo first {number}; echo second {number} >&2; exit {code}");
            let args = ["exec", "box", "-n", namespace, "--", "sh", "-c", &script];
            let output = kubectl.run(&args).await?;
            ensure!(output.stdout == format!("first {number}\n"), "session {number}: {output:?}");
            ensure!(output.stderr.starts_with(&format!("second {number}\n")), "session {number}: {output:?}");
            ensure!(output.status.code() == i32::try_from(code).ok(), "session {number}: {output:?}");
            anyhow::Ok(())
        });
    }
    while let Some(ended) = sessions.join_next().await {
        ended.context("a session's task ended early")??;
    }
    Ok(())
}
