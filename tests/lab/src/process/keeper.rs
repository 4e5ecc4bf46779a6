//! Starting processes again that end by themselves.

use super::Process;
use anyhow::{Context, Result};
use std::{
    sync::{
        Arc, Weak,
        atomic::Ordering,
        mpsc::{self, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::Duration,
};

/// Also the pause before a process that ends again and again is started once more.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Does what systemd or a kubelet does for the parts of a control plane: kube-controller-manager, for one, ends when the API server
/// goes away in its first seconds. What [`Process::kill`] or [`Process::stop`] has ended stays so. It has a thread of its own, because
/// a lab outlives the runtimes of the tests that share it.
#[derive(Debug)]
pub(crate) struct Keeper {
    stop: Option<mpsc::SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Watches these until it is dropped.
    pub(crate) fn start<'a>(processes: impl Iterator<Item = &'a Arc<Process>>) -> Result<Self> {
        let (stop, stopped) = mpsc::sync_channel(0);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot make a runtime for keeping processes")?;
        let watched = |process: &Arc<Process>| {
            process.kept.store(true, Ordering::Relaxed);
            Arc::downgrade(process)
        };
        // A lab that is dropped ends its processes, whoever watches them.
        let processes: Vec<Weak<Process>> = processes.map(watched).collect();
        let thread = std::thread::Builder::new()
            .name("lab-keeper".to_owned())
            .spawn(move || {
                while stopped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                    for process in processes.iter().filter_map(Weak::upgrade) {
                        if let Err(error) = runtime.block_on(process.revive()) {
                            eprintln!("lab: {error:#}");
                        }
                    }
                }
            })
            .context("cannot start the thread that keeps processes")?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Keeper {
    /// Nothing is started any more when this has returned.
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
