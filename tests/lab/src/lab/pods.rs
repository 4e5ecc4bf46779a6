//! Pods for tests, and their containers from the host's side.

use super::Lab;
use crate::{node::TOOLS_IMAGE, process::procfs, wait};
use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::time::Duration;

const NAMESPACE_WITHIN: Duration = Duration::from_secs(60);

/// The processes of the containers of some pods, as they were when they were asked for.
#[derive(Clone, Debug)]
pub struct Containers {
    /// As the host counts them.
    pids: Vec<u32>,
}

impl Lab {
    /// Makes a namespace, and waits until it has what every namespace gets: pods are refused before, and nothing appears in it later.
    ///
    /// # Errors
    /// When there is one of that name.
    pub async fn create_namespace(&self, name: &str) -> Result<()> {
        self.admin.stdout(&["create", "namespace", name]).await?;
        wait::until("the namespace's ServiceAccount and ConfigMap", NAMESPACE_WITHIN, || async {
            self.admin.stdout(&["get", "serviceaccount/default", "configmap/kube-root-ca.crt", "-n", name]).await
        })
        .await?;
        Ok(())
    }

    /// Runs a shell command in a pod of [`TOOLS_IMAGE`], and waits until that is ready. A command that ends is started again.
    ///
    /// # Errors
    /// When it does not get ready.
    pub async fn run_pod(&self, namespace: &str, name: &str, command: &str) -> Result<()> {
        let image = format!("--image={TOOLS_IMAGE}");
        let run = ["run", name, &image, "-n", namespace, "--restart=Always", "--", "sh", "-c", command];
        self.admin.stdout(&run).await?;
        let pod = format!("pod/{name}");
        let wait = ["wait", "--for=condition=Ready", &pod, "-n", namespace, "--timeout=60s"];
        self.admin.stdout(&wait).await.with_context(|| format!("pod {name} does not start"))?;
        Ok(())
    }

    /// The containers of these pods, without the pods' sandboxes.
    ///
    /// # Errors
    /// In a lab without a node, and when no such container runs.
    pub async fn containers(&self, namespace: &str, selector: &str) -> Result<Containers> {
        let machine = self.machine.as_ref().context("this lab has no node")?;
        let ids = "jsonpath={.items[*].status.containerStatuses[*].containerID}";
        let ids = self.admin.stdout(&["get", "pods", "-n", namespace, "-l", selector, "-o", ids]).await?;
        let ids = ids.split_whitespace().filter_map(|id| id.split_once("://").map(|(_, id)| id));
        let pids: Vec<u32> = ids.map(|id| machine.processes(id)).collect::<Result<Vec<_>>>()?.concat();
        ensure!(!pids.is_empty(), "no container of {selector} runs in {namespace}");
        Ok(Containers { pids })
    }

    /// All containers of the node, sandboxes of pods included.
    ///
    /// # Errors
    /// In a lab without a node.
    pub fn all_containers(&self) -> Result<Containers> {
        let machine = self.machine.as_ref().context("this lab has no node")?;
        Ok(Containers { pids: machine.processes("kubepods")? })
    }
}

impl Containers {
    /// SIGKILL to each process, as when the power fails.
    ///
    /// # Errors
    /// When none of them is there any more.
    pub fn kill(&self) -> Result<()> {
        let killed = self.pids.iter().filter(|pid| kill(**pid).is_ok()).count();
        ensure!(killed > 0, "the containers have ended already");
        Ok(())
    }

    /// Resident memory in bytes.
    ///
    /// # Errors
    /// When one has ended.
    pub fn rss(&self) -> Result<u64> {
        self.pids.iter().map(|pid| procfs::rss(*pid)).sum()
    }

    /// User and system time since their start.
    ///
    /// # Errors
    /// When one has ended.
    pub fn cpu_time(&self) -> Result<Duration> {
        self.pids.iter().map(|pid| procfs::cpu_time(*pid)).sum()
    }
}

fn kill(pid: u32) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).with_context(|| format!("{pid} is no process id"))?;
    Ok(kill_process(pid, Signal::KILL)?)
}
