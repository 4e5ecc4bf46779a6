//! Starting processes again that end by themselves.

use super::Process;
use anyhow::{Context, Result};
use std::{
    sync::{
        Arc, Weak,
        atomic::Ordering,
        mpsc::{self, RecvTimeoutError},
    },
    time::Duration,
};

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Does what systemd or a kubelet does for the parts of a control plane: kube-controller-manager, for one, ends when the API server
/// goes away in its first seconds. What [`Process::kill`] or [`Process::stop`] has ended stays so. It has a thread of its own, because
/// a lab outlives the runtimes of the tests that share it.
#[derive(Debug)]
pub(crate) struct Keeper {
    _stop: mpsc::SyncSender<()>,
}

impl Keeper {
    /// Watches these until it is dropped.
    pub(crate) fn start(processes: &[Arc<Process>]) -> Result<Self> {
        let (stop, stopped) = mpsc::sync_channel(0);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot make a runtime for keeping processes")?;
        for process in processes {
            process.kept.store(true, Ordering::Relaxed);
        }
        // A lab that is dropped ends its processes, whoever watches them.
        let processes: Vec<Weak<Process>> = processes.iter().map(Arc::downgrade).collect();
        std::thread::Builder::new()
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
        Ok(Self { _stop: stop })
    }
}
