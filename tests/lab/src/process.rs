//! One process of the lab: started, watched, killed, frozen and restarted with the same ports and data.

mod health;
mod keeper;
pub(crate) mod procfs;
mod spawner;

pub(crate) use self::keeper::Keeper;
pub use self::{health::Health, spawner::Spawner};

use crate::{state::StateFile, wait};
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use std::{
    collections::BTreeMap,
    ops::Deref,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, ExitStatus},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// A killed process is gone by then, whatever it was doing.
const DEAD_WITHIN: Duration = Duration::from_secs(10);

/// How to start a process.
#[derive(Clone, Debug)]
pub struct Spec {
    /// What it is called in the lab.
    pub name: String,
    /// The program.
    pub binary: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its whole environment; `PATH` alone is added.
    pub env: BTreeMap<String, String>,
    /// Where it starts.
    pub folder: PathBuf,
    /// How to see that it works.
    pub health: Health,
    /// How long it may take to end after SIGTERM.
    pub grace: Duration,
}

/// A process of the lab. All calls may be made from several tests at once; starts and stops take turns.
#[derive(Debug)]
pub struct Process {
    spec: Spec,
    log: PathBuf,
    spawner: Spawner,
    state: Arc<StateFile>,
    turn: tokio::sync::Mutex<()>,
    /// Whether it was started and nobody has stopped it since.
    wanted: AtomicBool,
    /// Whether a [`Keeper`] starts it again.
    kept: AtomicBool,
    child: Mutex<Option<Child>>,
}

impl Process {
    pub(crate) fn new(spec: Spec, logs: &Path, spawner: Spawner, state: Arc<StateFile>) -> Self {
        let log = logs.join(format!("{}.log", spec.name));
        Self {
            spec,
            log,
            spawner,
            state,
            turn: tokio::sync::Mutex::new(()),
            wanted: AtomicBool::new(false),
            kept: AtomicBool::new(false),
            child: Mutex::new(None),
        }
    }

    /// What it is called in the lab.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// How it is started.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Its stdout and stderr, over all its starts.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Starts it.
    ///
    /// # Errors
    /// When it runs already or cannot be run.
    pub async fn start(&self) -> Result<()> {
        let _turn = self.turn.lock().await;
        self.start_in_turn().await
    }

    /// SIGKILL, and waits until it is gone. One that is gone already is left so.
    ///
    /// # Errors
    /// When it does not go.
    pub async fn kill(&self) -> Result<()> {
        let _turn = self.turn.lock().await;
        self.kill_in_turn().await
    }

    /// SIGTERM, then SIGKILL when its grace has passed. Gives how it ended, or `None` when it was not running.
    ///
    /// # Errors
    /// When it does not go.
    pub async fn stop(&self) -> Result<Option<ExitStatus>> {
        let _turn = self.turn.lock().await;
        self.stop_in_turn().await
    }

    /// Stops it when it runs, and starts it again: same ports, same data.
    ///
    /// # Errors
    /// As [`Process::stop`] and [`Process::start`].
    pub async fn restart(&self) -> Result<()> {
        let _turn = self.turn.lock().await;
        self.stop_in_turn().await?;
        self.start_in_turn().await
    }

    /// SIGSTOP: the process keeps its sockets and answers nothing.
    ///
    /// # Errors
    /// When it does not run.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT, after [`Process::freeze`].
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Sends it SIGTERM and returns at once, for tests of what it does while it ends. What a [`Keeper`] keeps comes back then.
    ///
    /// # Errors
    /// When it does not run.
    pub fn terminate(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// Its process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        child.as_mut().and_then(running)
    }

    /// Whether it runs (a frozen one does).
    pub fn is_running(&self) -> bool {
        self.pid().is_some()
    }

    /// How it ended, when it did.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        child.as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    /// One look at its health. The error says what is not right.
    ///
    /// # Errors
    /// When it does not run, does not answer, or answers that it is not ready.
    pub async fn ready(&self) -> Result<()> {
        if let Some(status) = self.exit_status() {
            bail!("{} has ended: {}; its log ends:\n{}", self.spec.name, describe(status), self.log_tail(12));
        }
        if !self.is_running() {
            bail!("{} is not running", self.spec.name);
        }
        self.spec.health.look().await.with_context(|| format!("{} is not ready", self.spec.name))
    }

    /// Waits until it is ready; gives up at once when it has ended and nobody starts it again.
    ///
    /// # Errors
    /// When it is not ready within `limit`; the last answer is in the message.
    pub async fn wait_ready(&self, limit: Duration) -> Result<()> {
        let ended = wait::until(&format!("{} to be ready", self.spec.name), limit, || async {
            match self.ready().await {
                Ok(()) => Ok(None),
                Err(error) if self.exit_status().is_some() && !self.is_kept() => Ok(Some(error)),
                Err(error) => Err(error),
            }
        })
        .await?;
        ended.map_or(Ok(()), Err)
    }

    /// Resident memory in bytes.
    ///
    /// # Errors
    /// When it does not run.
    pub fn rss(&self) -> Result<u64> {
        procfs::rss(self.running_pid()?)
    }

    /// Open file descriptors.
    ///
    /// # Errors
    /// When it does not run.
    pub fn fds(&self) -> Result<usize> {
        procfs::fds(self.running_pid()?)
    }

    /// Threads.
    ///
    /// # Errors
    /// When it does not run.
    pub fn threads(&self) -> Result<usize> {
        procfs::threads(self.running_pid()?)
    }

    /// CPU time used since its start, user and system, to 10 ms.
    ///
    /// # Errors
    /// When it does not run.
    pub fn cpu_time(&self) -> Result<Duration> {
        procfs::cpu_time(self.running_pid()?)
    }

    /// The last lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().collect();
        all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
    }

    fn is_kept(&self) -> bool {
        self.kept.load(Ordering::Relaxed) && self.wanted.load(Ordering::Relaxed)
    }

    /// Starts it again when it has ended by itself.
    async fn revive(&self) -> Result<()> {
        let _turn = self.turn.lock().await;
        if self.wanted.load(Ordering::Relaxed) && !self.is_running() {
            self.start_in_turn().await?;
        }
        Ok(())
    }

    async fn start_in_turn(&self) -> Result<()> {
        if let Some(pid) = self.pid() {
            bail!("{} runs already, as process {pid}", self.spec.name);
        }
        self.wanted.store(true, Ordering::Relaxed);
        let child = self
            .spawner
            .spawn(&self.spec, &self.log)
            .await
            .with_context(|| format!("cannot start {} ({})", self.spec.name, self.spec.binary.display()))?;
        let pid = child.id();
        *self.child.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        self.state.started(&self.spec, &self.log, pid)
    }

    async fn kill_in_turn(&self) -> Result<()> {
        self.wanted.store(false, Ordering::Relaxed);
        if self.is_running() {
            self.signal(Signal::KILL)?;
            self.gone(DEAD_WITHIN).await?;
        }
        Ok(())
    }

    async fn stop_in_turn(&self) -> Result<Option<ExitStatus>> {
        self.wanted.store(false, Ordering::Relaxed);
        if !self.is_running() {
            return Ok(None);
        }
        self.signal(Signal::TERM)?;
        // A frozen process would sleep through its SIGTERM; another one may be gone already.
        drop(self.signal(Signal::CONT));
        if self.gone(self.spec.grace).await.is_err() {
            self.kill_in_turn().await?;
        }
        Ok(self.exit_status())
    }

    async fn gone(&self, limit: Duration) -> Result<()> {
        wait::until(&format!("the end of {}", self.spec.name), limit, || {
            let gone = if self.is_running() { Err("it runs") } else { Ok(()) };
            std::future::ready(gone)
        })
        .await
    }

    fn running_pid(&self) -> Result<u32> {
        self.pid().with_context(|| format!("{} is not running", self.spec.name))
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.running_pid()?;
        send(pid, signal).with_context(|| format!("cannot signal {} (process {pid})", self.spec.name))
    }
}

/// Processes in the order of their start. When dropped, they end in the reverse order: process 1 of a node does not go before all others
/// of the node have been waited for.
#[derive(Debug, Default)]
pub(crate) struct Processes(Vec<Arc<Process>>);

impl Processes {
    pub(crate) fn push(&mut self, process: Arc<Process>) {
        self.0.push(process);
    }
}

impl Deref for Processes {
    type Target = [Arc<Process>];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        while self.0.pop().is_some() {}
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(child) = child
            && let Some(pid) = running(child)
        {
            // What fails here is left to the kernel, which ends it with the thread that started it. Process 1 of a node waits for all
            // others of the node, so this wait has an end, too.
            drop(send(pid, Signal::KILL));
            let deadline = Instant::now() + DEAD_WITHIN;
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

/// The id of a child that has not ended.
fn running(child: &mut Child) -> Option<u32> {
    matches!(child.try_wait(), Ok(None)).then(|| child.id())
}

/// Signals a process that leads a group of its own, and its group.
pub(crate) fn send(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).with_context(|| format!("{pid} is no process id"))?;
    Ok(kill_process_group(pid, signal)?)
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}
