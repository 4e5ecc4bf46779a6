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
    for (args, reason) in [(&exec[..], "the token was revoked"), (&follow, "stream error")] {
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
