//! Starting processes that cannot outlive the lab.

use super::{Spec, running, send};
use anyhow::{Context, Result, bail};
use rustix::{process::Signal, thread::UnshareFlags};
use std::{
    fs::OpenOptions,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    time::Duration,
};
use tokio::{
    io::AsyncReadExt,
    process::{ChildStderr, ChildStdout},
    sync::oneshot,
};

/// A program that has closed its output ends at once, as a rule.
const LOOK_EVERY: Duration = Duration::from_millis(2);

type Reply = oneshot::Sender<std::io::Result<Owned>>;

/// A child, of a group of its own, that ends with this handle: when nobody waits for it any more, it would run unknown to all.
struct Owned(Option<Child>);

impl Drop for Owned {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0
            && let Some(pid) = running(child)
        {
            drop(send(pid, Signal::KILL));
            drop(child.wait());
        }
    }
}

impl Owned {
    async fn end(&mut self, stdout: &mut Vec<u8>, stderr: &mut Vec<u8>) -> Result<ExitStatus> {
        let child = self.0.as_mut().context("it was claimed")?;
        let (out, err) = (child.stdout.take().context("no stdout")?, child.stderr.take().context("no stderr")?);
        let (mut out, mut err) = (ChildStdout::from_std(out)?, ChildStderr::from_std(err)?);
        tokio::try_join!(out.read_to_end(stdout), err.read_to_end(stderr))?;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            tokio::time::sleep(LOOK_EVERY).await;
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
            rustix::thread::unshare(own).context(
                "cannot make namespaces: run it where they may be made, as root of the machine or in a container with all \
                 privileges (`docker run --privileged`)",
            )
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
                    drop(reply.send(command.spawn().map(|child| Owned(Some(child)))));
                }
            })
            .context("cannot start the thread that starts processes")?;
        entered.recv().context("the thread that starts processes is gone")??;
        let path = std::env::var_os("PATH").unwrap_or_default();
        let setpriv = std::env::split_paths(&path).map(|folder| folder.join("setpriv")).find(|file| file.is_file());
        Ok(Self { jobs, setpriv })
    }

    /// Runs a program to its end where this thread's processes run, and gives its stdout. One that nobody waits for any more
    /// is killed.
    pub(crate) async fn run(&self, mut command: Command) -> Result<Vec<u8>> {
        let program = command.get_program().display().to_string();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = self.hand_over(command).await.with_context(|| format!("cannot run {program}"))?;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let status = child.end(&mut stdout, &mut stderr).await.with_context(|| format!("cannot wait for {program}"))?;
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
        let mut started = self.hand_over(command).await?;
        started.0.take().context("a process was claimed twice")
    }

    async fn hand_over(&self, command: Command) -> Result<Owned> {
        let (reply, answer) = oneshot::channel();
        let jobs = self.jobs.clone();
        let taken = tokio::task::spawn_blocking(move || jobs.send((command, reply)).is_ok())
            .await
            .context("handing the process over ended early")?;
        anyhow::ensure!(taken, "the thread that starts processes is gone");
        Ok(answer.await.context("the thread that starts processes is gone")??)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{process::procfs, wait};

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn a_program_ends_with_the_wait_for_it() {
        let spawner = Spawner::new().unwrap();
        assert_eq!(spawner.run(shell("echo out; echo err >&2")).await.unwrap(), b"out\n");
        let failed = spawner.run(shell("echo why >&2; exit 3")).await.unwrap_err();
        assert!(failed.to_string().ends_with("exit status: 3: why"), "{failed}");

        let file = std::env::temp_dir().join(format!("lab-spawner-{}", std::process::id()));
        let script = format!("sleep 1000 & echo $! >{0}.new; mv {0}.new {0}; wait", file.display());
        let pid = tokio::select! {
            ended = spawner.run(shell(&script)) => panic!("{ended:?}"),
            pid = wait::until("the child of a program", Duration::from_secs(10), || {
                std::future::ready(std::fs::read_to_string(&file))
            }) => pid.unwrap().trim().parse().unwrap(),
        };
        std::fs::remove_file(&file).unwrap();
        let gone = || std::future::ready(if procfs::start_time(pid).is_none() { Ok(()) } else { Err("it runs") });
        wait::until("its end", Duration::from_secs(10), gone).await.unwrap();
    }
}
