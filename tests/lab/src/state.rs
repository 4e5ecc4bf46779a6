//! What a run has started, on disk: for `status`, `logs` and `kubeconfig` from another terminal, and for `down` after a crash.

use crate::{
    folders::write_atomically,
    lab::Installation,
    node::Remains,
    process::{Health, Spec, procfs, send},
    run::Tool,
};
use anyhow::{Context, Result};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// A process and what it was when it was written down.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) pid: u32,
    /// In ticks since boot. A process id is used again; with this it is not mistaken.
    pub(crate) start_time: u64,
    pub(crate) log: PathBuf,
    pub(crate) health: Option<String>,
}

impl Entry {
    /// Whether that very process still runs.
    pub(crate) fn runs(&self) -> bool {
        procfs::start_time(self.pid) == Some(self.start_time)
    }

    /// Signals it and its children, if it is still that process.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        if self.runs() {
            send(self.pid, signal).with_context(|| format!("cannot signal {} (process {})", self.name, self.pid))?;
        }
        Ok(())
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Phase {
    #[default]
    Starting,
    Up,
}

/// A run.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct State {
    pub(crate) phase: Phase,
    /// The process that started it all.
    pub(crate) owner: Option<Entry>,
    pub(crate) processes: Vec<Entry>,
    /// What a node leaves when its processes have ended.
    pub(crate) node: Option<Remains>,
    /// What is in a cluster of the user's.
    pub(crate) installation: Option<Installation>,
    /// Through the agent.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// kubectl straight to the API server.
    pub(crate) direct: Option<Tool>,
    /// What `up` shows when it is done.
    pub(crate) summary: String,
}

impl State {
    /// The state in a run folder; `None` when there is none.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join("state.json");
        match std::fs::read(&path) {
            Ok(text) => {
                let state = serde_json::from_slice(&text);
                state
                    .map(Some)
                    .with_context(|| format!("{} is damaged; delete it when nothing of the lab runs", path.display()))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// The process that started it all, while it runs.
    pub(crate) fn owner(&self) -> Option<&Entry> {
        self.owner.as_ref().filter(|owner| owner.runs())
    }
}

/// The state file of a run that is ours.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
    state: Mutex<State>,
}

impl StateFile {
    pub(crate) fn create(folder: &Path) -> Result<Self> {
        let pid = std::process::id();
        let owner = Entry {
            name: "lab".to_owned(),
            pid,
            start_time: procfs::start_time(pid).context("/proc says nothing about this very process")?,
            log: folder.join("lab.log"),
            health: None,
        };
        let file = Self { path: folder.join("state.json"), state: Mutex::default() };
        file.change(|state| state.owner = Some(owner))?;
        Ok(file)
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut State)) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        write_atomically(&self.path, &serde_json::to_vec_pretty(&*state)?, 0o600)
    }

    pub(crate) fn started(&self, spec: &Spec, log: &Path, pid: u32) -> Result<()> {
        // One that ends at once has no start time any more, and nothing to clean up.
        let start_time = procfs::start_time(pid).unwrap_or_default();
        let health = match &spec.health {
            Health::Http(url) => Some(url.clone()),
            Health::Tcp(address) => Some(format!("tcp://{address}")),
            Health::Running => None,
        };
        let entry = Entry { name: spec.name.clone(), pid, start_time, log: log.to_owned(), health };
        self.change(|state| {
            state.processes.retain(|known| known.name != entry.name);
            state.processes.push(entry);
        })
    }

    pub(crate) fn read(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
