//! Run folders: one for the current run of `cargo lab`, one each for the labs of tests.

use crate::{folders, process::procfs, state::State, wait};
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs::{self, File, TryLockError},
    future::ready,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

pub(super) const STATE: &str = "state.json";
/// A copy of the user's kubeconfig.
pub(super) const EXISTING: &str = "existing.kubeconfig";
/// Folders of test runs that are over are kept for a look at their logs, this many.
const KEPT: usize = 5;
/// Every process in its grace, and a namespace of another cluster.
const OWNER_STOPS_WITHIN: Duration = Duration::from_secs(180);
/// What a run that has just ended leaves to the kernel.
pub(super) const GONE_WITHIN: Duration = Duration::from_secs(20);
/// What is left of a run that ended long ago either goes at once or does not go.
const OLD_GONE_WITHIN: Duration = Duration::from_millis(200);

/// A folder that is this run's alone.
#[derive(Debug)]
pub(crate) struct RunFolder {
    path: PathBuf,
    /// Held for the current run, so that there is one.
    _lock: Option<File>,
}

impl RunFolder {
    /// The current run's folder, emptied of the last one's leavings.
    pub(crate) async fn current() -> Result<Self> {
        let path = current()?;
        let lock_path = path.with_extension("lock");
        let lock = File::create(&lock_path).with_context(|| format!("cannot create {}", lock_path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let state = State::read(&path).ok().flatten();
                let pid = state.and_then(|state| state.owner().map(|owner| format!(" (process {})", owner.pid)));
                bail!(
                    "a lab is up already{}. `cargo lab status` shows it, `cargo lab down` stops it.",
                    pid.unwrap_or_default()
                );
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", lock_path.display()));
            }
        }
        clean_up(&path).await?;
        Self::empty(path, Some(lock))
    }

    /// A folder for one lab among others.
    pub(crate) async fn own() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let base = folders::state()?.join("runs");
        fs::create_dir_all(&base).with_context(|| format!("cannot create {}", base.display()))?;
        forget_old(&base).await?;
        let pid = std::process::id();
        let start = procfs::start_time(pid).unwrap_or_default();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self::empty(base.join(format!("{pid}-{start}-{count}")), None)
    }

    fn empty(path: PathBuf, lock: Option<File>) -> Result<Self> {
        if path.exists() {
            fs::remove_dir_all(&path).with_context(|| format!("cannot empty {}", path.display()))?;
        }
        let logs = logs(&path);
        fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
        Ok(Self { path, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn logs(&self) -> PathBuf {
        logs(&self.path)
    }
}

/// Where a run's processes log.
pub(crate) fn logs(run: &Path) -> PathBuf {
    run.join("logs")
}

/// Says that nothing of a run is left. The logs stay.
pub(super) fn forget(run: &Path) -> Result<()> {
    for name in [EXISTING, STATE] {
        let file = run.join(name);
        match fs::remove_file(&file) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", file.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The current run's folder, whether there is one or not.
pub(crate) fn current() -> Result<PathBuf> {
    Ok(folders::state()?.join("current"))
}

/// Ends what is left of a run: its owner in order, and then every process that is written down and still the same, and what is in a
/// cluster of the user's. Gives how much there was to end.
pub(crate) async fn clean_up(folder: &Path) -> Result<usize> {
    clean_up_within(folder, GONE_WITHIN).await
}

async fn clean_up_within(folder: &Path, limit: Duration) -> Result<usize> {
    let Some(state) = State::read(folder)? else { return Ok(0) };
    let mut ended = 0;
    if let Some(owner) = state.owner().filter(|owner| owner.pid != std::process::id()) {
        let pid = i32::try_from(owner.pid).ok().and_then(Pid::from_raw).context("the state file has no process id")?;
        kill_process(pid, Signal::TERM).with_context(|| format!("cannot stop the lab (process {})", owner.pid))?;
        wait::until("the lab to stop", OWNER_STOPS_WITHIN, || {
            ready(if owner.runs() { Err(format!("process {} runs", owner.pid)) } else { Ok(()) })
        })
        .await?;
        ended += 1;
    }
    // An owner that ended well has left nothing to do.
    let Some(state) = State::read(folder)? else { return Ok(ended) };
    for process in state.processes.iter().rev().filter(|process| process.runs()) {
        process.signal(Signal::KILL)?;
        wait::until(&format!("{} to end", process.name), limit, || {
            ready(if process.runs() { Err(format!("process {} runs", process.pid)) } else { Ok(()) })
        })
        .await?;
        ended += 1;
    }
    state.undo(folder, limit).await?;
    ended += usize::from(state.installation.is_some()) + usize::from(state.node.is_some());
    forget(folder)?;
    Ok(ended)
}

/// Removes the folders of test runs that are over, but the latest few, and ends what those runs left.
async fn forget_old(base: &Path) -> Result<()> {
    let mut over = Vec::new();
    for entry in fs::read_dir(base).with_context(|| format!("cannot list {}", base.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let mut owner = name.split('-').map_while(|word| word.parse::<u64>().ok());
        let (Some(pid), Some(start)) = (owner.next(), owner.next()) else { continue };
        if u32::try_from(pid).is_ok_and(|pid| procfs::start_time(pid) == Some(start)) {
            continue;
        }
        over.push((entry.metadata().and_then(|metadata| metadata.modified()).ok(), entry.path()));
    }
    over.sort();
    for (at, (_, folder)) in over.iter().rev().enumerate() {
        // Another test binary may be at the same; what stays is looked at next time.
        if clean_up_within(folder, OLD_GONE_WITHIN).await.is_ok() && at >= KEPT {
            drop(fs::remove_dir_all(folder));
        }
    }
    Ok(())
}
