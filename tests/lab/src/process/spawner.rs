//! Starting processes that cannot outlive the lab.

use super::Spec;
use anyhow::{Context, Result};
use std::{
    fs::OpenOptions,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
};
use tokio::sync::oneshot;

type Reply = oneshot::Sender<std::io::Result<Child>>;

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
        let (jobs, queue) = mpsc::sync_channel::<(Command, Reply)>(16);
        std::thread::Builder::new()
            .name("lab-spawner".to_owned())
            .spawn(move || {
                for (mut command, reply) in queue {
                    if let Err(Ok(mut orphan)) = reply.send(command.spawn()) {
                        // Nobody waits for it any more: it would run unknown to all.
                        drop(orphan.kill());
                        drop(orphan.wait());
                    }
                }
            })
            .context("cannot start the thread that starts processes")?;
        let path = std::env::var_os("PATH").unwrap_or_default();
        let setpriv = std::env::split_paths(&path).map(|folder| folder.join("setpriv")).find(|file| file.is_file());
        Ok(Self { jobs, setpriv })
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
        let (reply, answer) = oneshot::channel();
        let jobs = self.jobs.clone();
        let taken = tokio::task::spawn_blocking(move || jobs.send((command, reply)).is_ok())
            .await
            .context("handing the process over ended early")?;
        anyhow::ensure!(taken, "the thread that starts processes is gone");
        Ok(answer.await.context("the thread that starts processes is gone")??)
    }
}
