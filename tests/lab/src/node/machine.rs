//! A machine inside this one: namespaces of its own for mounts, network and processes, a link to the host, and a cgroup.
//!
//! ```text
//!   host: control plane, tests ── 10.201.x.1 ══ veth ══ 10.201.x.2 ── node: Kubernetes, containerd, pods (10.244.0.0/24)
//! ```
//!
//! Or a Docker engine and Kubernetes' control plane beside it, instead of a node.
//!
//! Its first process ends with the lab, however that ends, and takes all the others along. What is left then, cgroups and files, is
//! written down before it is made: see [`Remains`].

use crate::{
    ports,
    process::{Health, Spawner, Spec},
    wait,
};
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::ErrorKind,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// Addresses of links, four for each. A machine that has a network of its own there cannot reach it while a node is up.
const LINKS: Ipv4Addr = Ipv4Addr::new(10, 201, 0, 0);
const SET_UP: &str = include_str!("setup.sh");
const DROPPED_WITHIN: Duration = Duration::from_secs(5);
/// Hidden by folders of the node's own.
const COVERED: [&str; 3] = ["/run", "/var/lib", "/var/log"];
const CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "hugetlb", "io", "memory", "pids"];

#[derive(Debug)]
pub(crate) struct Machine {
    /// Starts processes in it.
    pub(crate) spawner: Spawner,
    /// Its own address, which the host and the pods reach.
    pub(crate) address: Ipv4Addr,
    /// The host's end of the link.
    pub(crate) gateway: Ipv4Addr,
    /// Its files: disk images of containers and volumes.
    pub(crate) folder: PathBuf,
    logs: PathBuf,
    pub(crate) remains: Remains,
}

/// What does not go with the machine's processes.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Remains {
    /// The name of its cgroup in every hierarchy, and of the link on the host's side.
    pub(crate) name: String,
    folder: PathBuf,
}

impl Machine {
    /// The name of its first process.
    pub(crate) const INIT: &str = "node";

    /// Looks whether there can be one on this machine.
    pub(crate) fn check() -> Result<()> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "a node needs root, for namespaces, mounts and containers: run it as root, in a container with all privileges"
        );
        ensure!(
            !hierarchies()?.is_empty(),
            "a node needs cgroups, and none is mounted under /sys/fs/cgroup: mount them, or run it where they are"
        );
        Ok(())
    }

    /// Chooses its addresses. `folder` is for its files, `logs` for its pods' logs. Nothing is made yet but namespaces.
    pub(crate) fn plan(folder: &Path, logs: &Path) -> Result<Self> {
        if let Some(covered) = COVERED.into_iter().find(|covered| folder.starts_with(covered)) {
            bail!("{} is under {covered}, which a node has of its own: set XDG_STATE_HOME", folder.display());
        }
        // The port is nobody else's, but a run that crashed may have left something under the name.
        let mut name = String::new();
        let mut port = 0;
        while name.is_empty() || is_taken(&name)? {
            [port] = ports::free()?;
            name = format!("lab-{port}");
        }
        let first = u32::from(LINKS) + 4 * u32::from(port - ports::FIRST);
        Ok(Self {
            spawner: Spawner::in_namespaces().context("a node needs namespaces of its own")?,
            address: Ipv4Addr::from(first + 2),
            gateway: Ipv4Addr::from(first + 1),
            folder: folder.to_owned(),
            logs: logs.to_owned(),
            remains: Remains { name, folder: folder.to_owned() },
        })
    }

    /// Its first process. It has nothing to do but to be there, and to let orphans go.
    pub(crate) fn init(&self) -> Spec {
        Spec {
            name: Self::INIT.to_owned(),
            binary: "/usr/bin/env".into(),
            // What ignores its children's ends does not have to wait for them.
            args: ["--ignore-signal=CHLD", "sleep", "infinity"].map(str::to_owned).to_vec(),
            env: BTreeMap::new(),
            folder: "/".into(),
            health: Health::Running,
            grace: Duration::ZERO,
        }
    }

    /// The control groups' parent, as the kubelet names it.
    pub(crate) fn cgroup(&self) -> String {
        format!("/{}", self.remains.name)
    }

    /// Makes mounts, network and cgroups. `init` is the host's id of the first process.
    pub(crate) async fn set_up(&self, init: u32) -> Result<()> {
        for folder in [&self.folder, &self.logs] {
            fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        for hierarchy in hierarchies()? {
            hierarchy.create(&self.remains.name)?;
        }
        let (name, gateway) = (&self.remains.name, self.gateway);
        let mut link = Command::new("sh");
        link.args([
            "-euc",
            "ip link add $N type veth peer name uplink netns $P; ip address add $A dev $N; ip link set $N up",
        ]);
        link.env("N", name).env("P", init.to_string()).env("A", format!("{gateway}/30"));
        Spawner::new()?.run(link).await.context("cannot make the node's link")?;

        let mut set_up = Command::new("sh");
        set_up
            .args(["-euc", SET_UP])
            .env("FOLDER", &self.folder)
            .env("LOGS", &self.logs)
            .env("ADDRESS", self.address.to_string())
            .env("GATEWAY", gateway.to_string());
        self.spawner.run(set_up).await.context("cannot set the node up")?;
        Ok(())
    }

    /// The host's ids of the processes in its control groups whose path contains `part`: a container's id, or a pod's.
    pub(crate) fn processes(&self, part: &str) -> Result<Vec<u32>> {
        let mut pids = BTreeSet::new();
        for hierarchy in hierarchies()? {
            collect(&hierarchy.root.join(&self.remains.name), part, &mut pids)?;
        }
        Ok(pids.into_iter().collect())
    }
}

fn collect(group: &Path, part: &str, pids: &mut BTreeSet<u32>) -> Result<()> {
    if group.to_string_lossy().contains(part) {
        let procs = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        pids.extend(procs.lines().filter_map(|line| line.parse::<u32>().ok()));
    }
    // One that goes meanwhile has no processes any more.
    for entry in fs::read_dir(group).into_iter().flatten() {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), part, pids)?;
        }
    }
    Ok(())
}

impl Drop for Machine {
    /// Best effort, for a lab that is dropped: its processes have ended by now. What is left all the same is in the state file.
    fn drop(&mut self) {
        let deadline = Instant::now() + DROPPED_WITHIN;
        while self.remains.try_remove().is_err() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Remains {
    /// Removes what is left once every process of the machine has ended. What is not there is as good.
    pub(crate) async fn remove(&self, limit: Duration) -> Result<()> {
        // The kernel is not done with a process yet when that is gone from /proc.
        wait::until("what is left of the node to go", limit, || std::future::ready(self.try_remove())).await
    }

    fn try_remove(&self) -> Result<()> {
        for hierarchy in hierarchies()? {
            remove_cgroup(&hierarchy.root.join(&self.name))?;
        }
        // It would go with the network namespace, which connections that nobody closes any more keep for minutes.
        if Path::new("/sys/class/net").join(&self.name).exists() {
            let output = Command::new("ip").args(["link", "delete", &self.name]).output().context("cannot run ip")?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "cannot delete the link {}: {}", self.name, said.trim());
        }
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.folder.display()))
            }
            _ => Ok(()),
        }
    }
}

/// Whether there is a control group or a link of that name.
fn is_taken(name: &str) -> Result<bool> {
    let link = Path::new("/sys/class/net").join(name).exists();
    Ok(link || hierarchies()?.iter().any(|hierarchy| hierarchy.root.join(name).exists()))
}

/// A mounted hierarchy of control groups: one per controller in version 1, one for all in version 2.
struct Hierarchy {
    root: PathBuf,
    unified: bool,
}

fn hierarchies() -> Result<Vec<Hierarchy>> {
    let mounts = fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
    let hierarchy = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        let (root, kind) = (fields.next()?, fields.next()?);
        let unified = match kind {
            "cgroup" => false,
            "cgroup2" => true,
            _ => return None,
        };
        root.starts_with("/sys/fs/cgroup").then(|| Hierarchy { root: root.into(), unified })
    };
    Ok(mounts.lines().filter_map(hierarchy).collect())
}

impl Hierarchy {
    fn create(&self, name: &str) -> Result<()> {
        let path = self.root.join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot create the cgroup {}", path.display()))?;
        if self.unified {
            let offered = fs::read_to_string(self.root.join("cgroup.controllers")).unwrap_or_default();
            for controller in offered.split_whitespace().filter(|controller| CONTROLLERS.contains(controller)) {
                for folder in [&self.root, &path] {
                    let file = folder.join("cgroup.subtree_control");
                    fs::write(&file, format!("+{controller}"))
                        .with_context(|| format!("cannot hand {controller} down in {}", file.display()))?;
                }
            }
        }
        Ok(())
    }
}

/// Control groups go from the leaves up; their files go with them.
fn remove_cgroup(path: &Path) -> Result<()> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| format!("cannot list {}", path.display()))?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroup(&entry.path())?;
        }
    }
    fs::remove_dir(path).with_context(|| format!("cannot remove {}", path.display()))
}
