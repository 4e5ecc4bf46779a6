//! What runs.

use super::running;
use crate::{
    lab::Lab,
    process::{Health, procfs},
    state::{Entry, Phase},
};
use anyhow::{Context, Result};
use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write},
    time::Duration,
};
use tokio::task::JoinSet;

const EVERY: Duration = Duration::from_secs(1);

/// `cargo lab status`.
pub(super) async fn status() -> Result<()> {
    let state = running()?;
    if let Some(owner) = state.owner() {
        let phase = match state.phase {
            Phase::Starting => "is starting",
            Phase::Up => "is up",
        };
        println!("the lab {phase} (process {})", owner.pid);
    }
    for line in lines(&state.processes).await {
        println!("{line}");
    }
    if let (Some(_), Some(kubectl)) = (&state.node, &state.direct) {
        let pods = kubectl.stdout(&["get", "pods", "--all-namespaces", "--request-timeout=5s"]).await;
        print!("\n{}", pods.unwrap_or_else(|error| format!("pods: {error:#}\n")));
    }
    Ok(())
}

/// One line per process, again and again on a terminal; elsewhere only when a process becomes ready or stops being so.
pub(super) async fn live(lab: &Lab) {
    let terminal = std::io::stdout().is_terminal();
    let mut shown = 0;
    let mut known = BTreeMap::new();
    loop {
        let entries = lab.entries();
        if terminal {
            let lines = lines(&entries).await;
            if shown > 0 {
                print!("\x1b[{shown}A");
            }
            for line in &lines {
                println!("\x1b[2K{line}");
            }
            shown = lines.len();
        } else {
            for entry in &entries {
                let ready = health(entry).await;
                let word = ready.as_ref().map_or_else(|error| format!("not ready: {error:#}"), |()| "ready".to_owned());
                if known.insert(entry.name.clone(), ready.is_ok()) != Some(ready.is_ok()) {
                    println!("{} {word}", entry.name);
                }
            }
        }
        // A closed pipe is no reason to stop the lab.
        drop(std::io::stdout().flush());
        tokio::time::sleep(EVERY).await;
    }
}

async fn lines(entries: &[Entry]) -> Vec<String> {
    let mut looks = JoinSet::new();
    for (at, entry) in entries.iter().cloned().enumerate() {
        looks.spawn(async move { (at, line(&entry).await) });
    }
    let lines: BTreeMap<usize, String> = looks.join_all().await.into_iter().collect();
    lines.into_values().collect()
}

async fn line(entry: &Entry) -> String {
    let memory = procfs::rss(entry.pid).ok().filter(|_| entry.runs());
    let memory = memory.map_or_else(|| "-".to_owned(), |bytes| format!("{} MiB", bytes >> 20));
    let ready = match health(entry).await {
        Ok(()) => "ready".to_owned(),
        Err(error) => format!("{error:#}").chars().filter(|c| *c != '\n').take(80).collect(),
    };
    format!("{:<26} {:>8} {memory:>9}  {ready}", entry.name, entry.pid)
}

async fn health(entry: &Entry) -> Result<()> {
    anyhow::ensure!(entry.runs(), "has ended");
    let health = match &entry.health {
        None => Health::Running,
        Some(url) => match url.strip_prefix("tcp://") {
            Some(address) => Health::Tcp(address.parse().with_context(|| format!("{address} is no address"))?),
            None => Health::Http(url.clone()),
        },
    };
    health.look().await
}
