//! What runs and what it says.

use super::running;
use crate::{
    lab::{self, Lab},
    process::{Health, procfs},
    state::{Entry, Phase},
};
use anyhow::{Context, Result, bail};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{ErrorKind, IsTerminal, Read, Write},
    path::Path,
    time::Duration,
};
use tokio::task::JoinSet;

const EVERY: Duration = Duration::from_secs(1);
const FOLLOW_EVERY: Duration = Duration::from_millis(200);

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

/// `cargo lab logs`, of the run that is on or was the last.
pub(super) async fn logs(service: &str, follow: bool) -> Result<()> {
    let folder = lab::logs(&lab::current()?);
    let names = log_names(&folder)?;
    if !names.iter().any(|name| name == service) {
        bail!("there is no log of {service:?} in {}, only of {}", folder.display(), names.join(", "));
    }
    let path = folder.join(format!("{service}.log"));
    let mut file = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = file.read(&mut buffer).with_context(|| format!("cannot read {}", path.display()))?;
        if count > 0 {
            let mut out = std::io::stdout().lock();
            if out.write_all(buffer.get(..count).unwrap_or_default()).and_then(|()| out.flush()).is_err() {
                return Ok(());
            }
        } else if follow {
            tokio::time::sleep(FOLLOW_EVERY).await;
        } else {
            return Ok(());
        }
    }
}

/// Of the processes that have logged.
fn log_names(folder: &Path) -> Result<Vec<String>> {
    let files = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => bail!("no lab was up yet; `cargo lab up` starts one"),
        files => files.with_context(|| format!("cannot list {}", folder.display()))?,
    };
    let mut names = Vec::new();
    for file in files {
        let name = file?.file_name().to_string_lossy().into_owned();
        names.extend(name.strip_suffix(".log").map(str::to_owned));
    }
    names.sort();
    Ok(names)
}
