//! Starting processes that cannot outlive the lab.

use super::Spec;
use anyhow::{Context, Result, bail};
use rustix::thread::UnshareFlags;
use std::{
    fs::OpenOptions,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
};
use tokio::sync::oneshot;

type Reply = oneshot::Sender<std::io::Result<Unclaimed>>;

/// A child on its way to who asked for it. When nobody waits for it any more, it would run unknown to all.
struct Unclaimed(Option<Child>);

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// The thread that starts every process of a lab.
///
/// A child is told by the kernel to end (`PR_SET_PDEATHSIG`) when the *thread* that started it ends, and threads of async runtimes come
/// and go. So one thread starts them all; it ends with the last clone of this handle or with the lab's process, however that ends. The
/// request itself needs code between fork and exec, which is `setpriv`'s (util-linux) job; where that is missing, `cargo lab down`
/// cleans up from the state file.
#[derive(Clone, Debug)]
pub struct Spawner {
    jobs: mpsc::SyncSender<(Command, Reply)>,
    setpriv: Option<PathBuf>,
}

impl Spawner {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn new() -> Result<Self> {
        Self::entering(|| Ok(()))
    }

    /// Starts the thread in a network, a mount table and a set of process ids of its own, which all that it starts shares. The first
    /// process becomes process 1 there: when it ends, the kernel ends every other one, and with the last of them go all mounts,
    /// interfaces and rules.
    ///
    /// # Errors
    /// When this user may not make namespaces.
    pub(crate) fn in_namespaces() -> Result<Self> {
        Self::entering(|| {
            let own = UnshareFlags::FS | UnshareFlags::NEWNS | UnshareFlags::NEWNET | UnshareFlags::NEWPID;
            #[expect(
                deprecated,
                reason = "its successor is unsafe because of UnshareFlags::FILES, which is not among these"
            )]
            rustix::thread::unshare(own).context("cannot make namespaces")
        })
    }

    fn entering(enter: fn() -> Result<()>) -> Result<Self> {
        let (jobs, queue) = mpsc::sync_channel::<(Command, Reply)>(16);
        let (report, entered) = mpsc::sync_channel(1);
        std::thread::Builder::new()
            .name("lab-spawner".to_owned())
            .spawn(move || {
                let outcome = enter();
                let failed = outcome.is_err();
                drop(report.send(outcome));
                if failed {
                    return;
                }
                for (mut command, reply) in queue {
                    drop(reply.send(command.spawn().map(|child| Unclaimed(Some(child)))));
                }
            })
            .context("cannot start the thread that starts processes")?;
        entered.recv().context("the thread that starts processes is gone")??;
        let path = std::env::var_os("PATH").unwrap_or_default();
        let setpriv = std::env::split_paths(&path).map(|folder| folder.join("setpriv")).find(|file| file.is_file());
        Ok(Self { jobs, setpriv })
    }

    /// Runs a program to its end where this thread's processes run, and gives its stdout.
    pub(crate) async fn run(&self, mut command: Command) -> Result<Vec<u8>> {
        let program = command.get_program().display().to_string();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.hand_over(command).await.with_context(|| format!("cannot run {program}"))?;
        let Output { status, stdout, stderr } = tokio::task::spawn_blocking(move || child.wait_with_output())
            .await
            .context("waiting for a program ended early")?
            .with_context(|| format!("cannot wait for {program}"))?;
        if !status.success() {
            bail!("{program} ended with {status}: {}", String::from_utf8_lossy(&stderr).trim());
        }
        Ok(stdout)
    }

    pub(super) async fn spawn(&self, spec: &Spec, log: &Path) -> Result<Child> {
        let open = OpenOptions::new().create(true).append(true).open(log);
        let log = open.with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = match &self.setpriv {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL", "--"]).arg(&spec.binary);
                command
            }
            None => Command::new(&spec.binary),
        };
        command
            .args(&spec.args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(&spec.env)
            .current_dir(&spec.folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot share the log file")?)
            .stderr(log)
            .process_group(0);
        self.hand_over(command).await
    }

    async fn hand_over(&self, command: Command) -> Result<Child> {
        let (reply, answer) = oneshot::channel();
        let jobs = self.jobs.clone();
        let taken = tokio::task::spawn_blocking(move || jobs.send((command, reply)).is_ok())
            .await
            .context("handing the process over ended early")?;
        anyhow::ensure!(taken, "the thread that starts processes is gone");
        let mut started = answer.await.context("the thread that starts processes is gone")??;
        started.0.take().context("a process was claimed twice")
    }
}
