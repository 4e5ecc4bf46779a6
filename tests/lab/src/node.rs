//! A node for the lab's cluster: containerd, kubelet, kube-proxy, kube-scheduler and NetworkPolicy, with CoreDNS and metrics-server as
//! pods, in a machine of its own inside this one. The control plane's processes run in there, too, so that they reach pods.

mod config;
pub(crate) mod image;
pub(crate) mod images;
mod machine;

pub(crate) use self::machine::{Machine, Remains};

use crate::{
    cluster::{Cluster, DNS_IP, NODE},
    debian,
    parts::Parts,
    process::Spec,
    progress::Progress,
    run::Tool,
    services::Services,
    wait,
};
use anyhow::{Context, Result, ensure};
use std::{path::PathBuf, process::Command, time::Duration};

/// What the node's programs call, and what goes into the image of tools.
const PACKAGES: [&str; 9] =
    ["busybox", "conntrack", "ipset", "iproute2", "iptables", "libc-bin", "mount", "nftables", "socat"];
const ADDONS: &str = include_str!("node/addons.yaml");
const SOCKET_WITHIN: Duration = Duration::from_secs(20);
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Of what Kubernetes says when something does not start.
const LINES_SHOWN: usize = 15;

/// The image of a shell and small programs, for pods of tests.
pub const TOOLS_IMAGE: &str = images::TOOLS;
/// What a pod of [`TOOLS_IMAGE`] may be updated to.
pub const NEXT_TOOLS_IMAGE: &str = images::NEXT_TOOLS;

/// A node under way.
#[derive(Debug)]
pub(crate) struct Node {
    programs: config::Programs,
    ctr: PathBuf,
    archive: PathBuf,
}

impl Node {
    /// Looks whether there can be a node here, and sees to the programs that are not parts.
    pub(crate) async fn require(progress: &Progress) -> Result<()> {
        Machine::check()?;
        debian::install(&PACKAGES, progress).await.context("a node needs programs of Debian packages")
    }

    pub(crate) fn prepare(machine: &Machine, parts: &Parts, cluster: &Cluster) -> Result<Self> {
        let api = config::Api {
            url: &cluster.server.url,
            authority: &cluster.authority,
            admin_kubeconfig: &cluster.admin_kubeconfig,
        };
        Ok(Self {
            programs: config::programs(machine, parts, &api)?,
            ctr: parts.path("ctr")?.to_owned(),
            archive: machine.folder.join("images.tar"),
        })
    }

    pub(crate) fn containerd(&self) -> Spec {
        self.programs.containerd.clone()
    }

    /// To be started when the API server answers.
    pub(crate) fn rest(&self) -> Vec<Spec> {
        self.programs.rest.clone()
    }

    /// To be started when the node is ready: it looks for the node at its start.
    pub(crate) fn firewall(&self) -> Spec {
        self.programs.firewall.clone()
    }

    /// Writes the images and hands them to containerd, once that listens.
    pub(crate) async fn import(&self, machine: &Machine, parts: &Parts, services: Option<&Services>) -> Result<()> {
        images::write(&self.archive, parts, services).await?;
        let socket = &self.programs.socket;
        wait::until("containerd to listen", SOCKET_WITHIN, || {
            std::future::ready(if socket.exists() { Ok(()) } else { Err(format!("no {}", socket.display())) })
        })
        .await?;
        let mut import = Command::new(&self.ctr);
        import.arg("--address").arg(socket).args(["--namespace", "k8s.io", "images", "import"]).arg(&self.archive);
        machine.spawner.run(import).await.context("cannot import the images")?;
        std::fs::remove_file(&self.archive).context("cannot remove the archive of images")
    }

    /// Adds what a cluster has besides Kubernetes, and waits until the node takes pods.
    pub(crate) async fn join(&self, admin: &Tool) -> Result<()> {
        let addons = ADDONS.replace("DNS_IP", &DNS_IP.to_string());
        admin
            .stdout_with_input(&["apply", "-f", "-"], &addons)
            .await
            .context("cannot install the cluster's add-ons")?;
        let ready = r#"jsonpath={.status.conditions[?(@.type=="Ready")]['status', 'message']}"#;
        let node = ["get", "node", NODE, "-o", ready];
        let ready = wait::until("the node to be ready", READY_WITHIN, || async {
            let status = admin.stdout(&node).await?;
            ensure!(status.starts_with("True"), "Ready is {status:?}");
            anyhow::Ok(())
        });
        explained(admin, "the node does not get ready", ready.await).await
    }

    /// Waits until names of Services are known.
    pub(crate) async fn names(&self, admin: &Tool) -> Result<()> {
        let status = ["rollout", "status", "deployment/coredns", "-n", "kube-system", "--timeout=60s"];
        explained(admin, "CoreDNS does not start", admin.stdout(&status).await.map(drop)).await
    }
}

/// Adds to an error what Kubernetes says of the node and its pods.
pub(crate) async fn explained(admin: &Tool, what: &str, outcome: Result<()>) -> Result<()> {
    let Err(error) = outcome else { return Ok(()) };
    let mut said = String::new();
    let conditions = r#"jsonpath={range .status.conditions[*]}{.type} is {.status}: {.message}{"\n"}{end}"#;
    for (title, args) in [
        ("the node", &["get", "node", NODE, "-o", conditions][..]),
        ("pods", &["get", "pods", "--all-namespaces", "-o", "wide"]),
        ("the last events", &["get", "events", "--all-namespaces", "--sort-by=.metadata.creationTimestamp"]),
    ] {
        let text = admin.stdout(args).await.unwrap_or_else(|error| format!("{error:#}"));
        let lines: Vec<&str> = text.lines().collect();
        let last = lines.get(lines.len().saturating_sub(LINES_SHOWN)..).unwrap_or_default();
        said.push_str(&format!("\n{title}:\n  {}", last.join("\n  ")));
    }
    Err(error.context(format!("{what}; Kubernetes says:{said}\n")))
}
