//! How sessions end when one side goes.

use crate::prepare::SOON;
use anyhow::{Context, Result, ensure};
use lab::{Lab, Lines};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

const ENDS_WITHIN: Duration = Duration::from_secs(2);
/// What the machine may need on top, when it has much else to do.
const SPARE: Duration = Duration::from_secs(3);
const FOREVER: &str = "echo ready; while :; do sleep 1; done";

pub async fn sessions_end_with_the_pod(lab: Arc<Lab>) -> Result<()> {
    let namespace = "pod-ends";
    lab.create_namespace(namespace).await?;
    let exec = ["exec", "box", "-n", namespace, "--", "sh", "-c", FOREVER];
    let follow = ["logs", "-f", "box", "-n", namespace];
    for args in [&exec[..], &follow] {
        lab.run_pod(namespace, "box", FOREVER).await?;
        let (mut straight, mut through) = (Lines::of(lab.direct(), args)?, Lines::of(lab.proxied()?, args)?);
        for lines in [&mut straight, &mut through] {
            ensure!(lines.next(SOON).await? == "ready");
        }
        lab.admin().stdout(&["delete", "pod", "box", "-n", namespace, "--now"]).await?;
        let wanted = straight.end(SOON).await?;
        let since = Instant::now();
        let ended = through.end(ENDS_WITHIN + SPARE).await.with_context(|| format!("{args:?}"))?;
        println!("{args:?}: {:?} after the straight one: {ended:?}", since.elapsed());
        ensure!((ended.0.code(), &ended.1) == (wanted.0.code(), &wanted.1), "straight {wanted:?}, through {ended:?}");
    }
    Ok(())
}

pub async fn sessions_end_with_the_client(lab: Arc<Lab>) -> Result<()> {
    let namespace = "client-ends";
    lab.create_namespace(namespace).await?;
    lab.run_pod(namespace, "box", "sleep infinity").await?;
    let mut command = lab.proxied()?.command(&["exec", "-i", "box", "-n", namespace, "--", "cat"]);
    let mut client = command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null()).spawn()?;
    let cats = async || -> Result<String> {
        let pids = ["exec", "box", "-n", namespace, "--", "sh", "-c", "pidof cat; true"];
        lab.admin().stdout(&pids).await
    };
    lab::until("the session's process", SOON, || async {
        ensure!(!cats().await?.trim().is_empty(), "there is none");
        anyhow::Ok(())
    })
    .await?;
    client.kill().await?;
    lab::until("the end of the session's process", ENDS_WITHIN + SPARE, || async {
        let left = cats().await?;
        ensure!(left.trim().is_empty(), "processes {left}");
        anyhow::Ok(())
    })
    .await
}

pub async fn sessions_end_with_the_users_token(lab: Arc<Lab>) -> Result<()> {
    let namespace = "token-ends";
    lab.create_namespace(namespace).await?;
    lab.run_pod(namespace, "box", FOREVER).await?;
    let token = lab.create_token(&["--user", "leaver", "--group", "lab:admins"]).await?;
    let leaver = lab.kubectl_with_token("leaver", &token)?;
    let exec = ["exec", "box", "-n", namespace, "--", "sh", "-c", FOREVER];
    let follow = ["logs", "-f", "box", "-n", namespace];
    let mut sessions = Vec::new();
    // A log has no words for its end: it breaks off.
    for (args, reason) in [
        (&exec[..], "close 1008 (policy violation): the token was revoked; ask for a new one"),
        (&follow, "stream error"),
    ] {
        let mut lines = Lines::of(&leaver, args)?;
        ensure!(lines.next(SOON).await? == "ready");
        sessions.push((args, lines, reason));
    }
    let mut stays = Lines::of(lab.proxied()?, &exec)?;
    ensure!(stays.next(SOON).await? == "ready");
    lab.control_plane(&["token", "revoke", &token]).await?;
    for (args, mut lines, reason) in sessions {
        let (status, stderr) = lines.end(ENDS_WITHIN + SPARE).await.with_context(|| format!("{args:?}"))?;
        println!("{args:?}: {status} {stderr}");
        ensure!(!status.success() && stderr.contains(reason), "{args:?} ends with {status}, {stderr}");
    }
    stays.silent_for(Duration::from_secs(1)).await
}

/// Kubernetes asks for a session's right when it begins, and not again: with the agent the same as without.
pub async fn sessions_outlive_the_right_they_began_with(lab: Arc<Lab>) -> Result<()> {
    let namespace = "right-ends";
    lab.create_namespace(namespace).await?;
    lab.run_pod(namespace, "box", FOREVER).await?;
    let role = ["create", "role", "shell", "-n", namespace, "--verb=get,create", "--resource=pods,pods/exec"];
    let binding = ["create", "rolebinding", "shell", "-n", namespace, "--role=shell", "--user=guest"];
    for args in [&role[..], &binding] {
        lab.admin().stdout(args).await?;
    }
    let token = lab.create_token(&["--user", "guest"]).await?;
    let through = lab.kubectl_with_token("guest", &token)?;
    let ways = [(lab.admin(), &["--as=guest"][..]), (&through, &[])];
    let exec = |script: &'static str| ["exec", "box", "-n", namespace, "--", "sh", "-c", script];
    let waits = exec("echo ready; until [ -e /tmp/told ]; do sleep 0.1; done; echo told");
    let mut sessions = Vec::new();
    for (tool, user) in ways {
        let mut lines = Lines::of(tool, &[user, &waits].concat())?;
        ensure!(lines.next(SOON).await? == "ready");
        sessions.push(lines);
    }
    lab.admin().stdout(&["delete", "rolebinding", "shell", "-n", namespace]).await?;
    let mut refusals = Vec::new();
    for (tool, user) in ways {
        let next = [user, &exec("true")].concat();
        let refused = lab::until("the next session to be refused", SOON, || async {
            let output = tool.run(&next).await?;
            ensure!(!output.success(), "it is not");
            anyhow::Ok((output.status.code(), output.stderr))
        });
        refusals.push(refused.await?);
    }
    let [straight, refused] = refusals.as_slice() else { anyhow::bail!("{refusals:?}") };
    ensure!(straight == refused && refused.1.contains("Forbidden"), "straight {straight:?}, through {refused:?}");
    lab.admin().stdout(&exec("touch /tmp/told")).await?;
    for mut lines in sessions {
        ensure!(lines.next(SOON).await? == "told");
        let (status, stderr) = lines.end(SOON).await?;
        ensure!(status.success(), "{status}: {stderr}");
    }
    Ok(())
}
