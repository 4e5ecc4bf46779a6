//! `kubectl logs`.

use crate::prepare;
use anyhow::{Result, ensure};
use e2e::{Step, Story};
use lab::{Lab, Lines};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

pub async fn logs_are_printed_alike(lab: Arc<Lab>) -> Result<()> {
    let namespace = "logs";
    lab.create_namespace(namespace).await?;
    lab.run_pod(namespace, "chatty", "seq 1 200000; echo end; sleep infinity").await?;
    // Always restarted, so that there is a container before the present one.
    let crashing = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"crashing"},"spec":{"containers":[{"name":"main",
        "image":"lab.local/tools:1","args":["sh","-c","echo run; test -e /kept/once && sleep infinity; touch /kept/once; exit 4"],
        "volumeMounts":[{"name":"kept","mountPath":"/kept"}]}],"volumes":[{"name":"kept","emptyDir":{}}]}}"#;
    lab.admin().stdout_with_input(&["create", "-n", namespace, "-f", "-"], crashing).await?;
    lab::until("the second start of a container", prepare::SOON, || async {
        lab.admin().stdout(&["logs", "crashing", "-n", namespace, "--previous"]).await
    })
    .await?;
    lab::until("the whole log", prepare::SOON, || async {
        let tail = lab.admin().stdout(&["logs", "chatty", "-n", namespace, "--tail=1"]).await?;
        ensure!(tail == "end\n", "{tail}");
        anyhow::Ok(())
    })
    .await?;
    let logs = |rest: &str| Step::kubectl(&format!("logs -n {namespace} {rest}"));
    Story::new([
        logs("chatty"),
        logs("chatty --tail=3 --timestamps"),
        logs("chatty --limit-bytes=100"),
        logs("chatty --since=1h --tail=2"),
        logs("chatty --all-containers --prefix --tail=2"),
        logs("-l run=chatty --tail=2"),
        logs("crashing --previous"),
        logs("chatty --previous").ends_with(1),
        logs("chatty -c absent").ends_with(1),
        logs("absent").ends_with(1),
    ])
    .same_both_ways(&lab)
    .await
}

pub async fn slow_output_is_followed_line_by_line(lab: Arc<Lab>) -> Result<()> {
    let namespace = "slow";
    lab.create_namespace(namespace).await?;
    let count = "until test -e /tmp/go; do sleep 0.1; done; for n in 1 2 3 4 5; do echo line $n; sleep 2; done";
    lab.run_pod(namespace, "slow", count).await?;
    let follow = ["logs", "-f", "slow", "-n", namespace];
    let (mut straight, mut through) = (Lines::of(lab.direct(), &follow)?, Lines::of(lab.proxied()?, &follow)?);
    lab.admin().stdout(&["exec", "slow", "-n", namespace, "--", "touch", "/tmp/go"]).await?;
    for number in 1..=5 {
        let wanted = format!("line {number}");
        let line = straight.next(prepare::SOON).await?;
        let since = Instant::now();
        let same = through.next(prepare::SOON).await?;
        ensure!(line == wanted && same == wanted, "{line:?} and {same:?} instead of {wanted:?}");
        // The pod waits two seconds between lines: one that is held back shows.
        ensure!(since.elapsed() < Duration::from_millis(1500), "{wanted} came {:?} later", since.elapsed());
    }
    for lines in [&mut straight, &mut through] {
        let (status, stderr) = lines.end(prepare::SOON).await?;
        ensure!(status.success() && stderr.is_empty(), "{status}: {stderr}");
    }
    Ok(())
}
