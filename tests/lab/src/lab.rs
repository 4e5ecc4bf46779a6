//! [`Lab`]: a running lab, as tests, benches and `cargo lab` see it.

mod folder;
mod installation;
mod pods;
mod start;

pub use self::pods::Containers;
pub(crate) use self::{
    folder::{clean_up, current, logs},
    installation::Installation,
};

use crate::{
    cluster,
    control_plane::ControlPlane,
    docker::Docker,
    node::Machine,
    parts::Parts,
    pki::Authority,
    process::{Keeper, Process, Processes, Spawner},
    progress::Progress,
    run::{Output, Tool},
    state::{Entry, Phase, StateFile},
    tokens::{self, Refresher, Token},
    wait,
};
use anyhow::{Context, Result, anyhow};
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Where the chart is installed, and as what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub namespace: &'static str,
    pub release: &'static str,
}

/// As users install it.
const OWN_CLUSTER: Place = Place { namespace: "pipeops-system", release: "pipeops-agent" };
/// A cluster that exists may have an agent of its own, which is none of the lab's business.
const EXISTING_CLUSTER: Place = Place { namespace: "pipeops-lab", release: "pipeops-lab" };

impl Options {
    pub(crate) fn place(&self) -> Place {
        if self.kubeconfig.is_some() { EXISTING_CLUSTER } else { OWN_CLUSTER }
    }
}

/// What to start.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name the cluster registers under.
    pub cluster: String,
    /// An existing cluster instead of one of the lab's own.
    pub kubeconfig: Option<PathBuf>,
    /// A node in the lab's own cluster, and the agent as pods on it instead of as processes.
    pub node: bool,
    /// A Docker engine, on one machine with the lab's own cluster, which has no node and no services then.
    pub docker: bool,
    /// Without it the lab ends with a ready API server: no control plane, no chart.
    pub services: bool,
    /// Replicas of a service instead of one.
    pub replicas: BTreeMap<String, u32>,
    /// More values for the chart, as `--set-string` takes them.
    pub values: Vec<String>,
    /// More environment for the control plane.
    pub control_plane_env: BTreeMap<String, String>,
    /// The one run that `cargo lab` commands speak of, instead of one of its own.
    pub current: bool,
    /// gRPC address of an OpenTelemetry collector that the API server sends spans of every request to. With a node, 127.0.0.1 is the
    /// node's own.
    pub api_server_traces: Option<SocketAddr>,
    /// For figures: the services in the profile that ships (unless they are built already), and the parts that only benches need.
    pub bench: bool,
    /// How the start is shown.
    pub progress: Progress,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cluster: "lab".to_owned(),
            kubeconfig: None,
            node: false,
            docker: false,
            services: true,
            replicas: BTreeMap::new(),
            values: Vec::new(),
            control_plane_env: BTreeMap::new(),
            api_server_traces: None,
            current: false,
            bench: false,
            progress: Progress::slow_only(),
        }
    }
}

/// A running lab. Its processes end with it: in order by [`Lab::stop`], at once when it is dropped or its process ends.
#[derive(Debug)]
pub struct Lab {
    options: Options,
    parts: Parts,
    // Before the processes, which it would start again.
    _keeper: Keeper,
    processes: Processes,
    tokens: Vec<Token>,
    _refresher: Option<Refresher>,
    admin: Tool,
    direct: Tool,
    direct_helm: Tool,
    api_url: String,
    authority: Option<(Authority, Ipv4Addr)>,
    link: Option<Link>,
    state: Arc<StateFile>,
    spawner: Spawner,
    docker: Option<Docker>,
    // After its processes.
    machine: Option<Arc<Machine>>,
    // Last: it is released when everything in it has ended.
    folder: folder::RunFolder,
}

/// The way through the agent.
#[derive(Debug)]
struct Link {
    control_plane: ControlPlane,
    ca_pem: String,
    agent_token: String,
    user_token: String,
    kubectl: Tool,
    helm: Tool,
    kubeconfig: PathBuf,
}

impl Lab {
    /// kubectl through the agent, run to its end.
    ///
    /// # Errors
    /// As [`Tool::run`].
    pub async fn kubectl(&self, args: &[&str]) -> Result<Output> {
        self.proxied()?.run(args).await
    }

    /// The same kubectl straight to the API server, as the same user.
    ///
    /// # Errors
    /// As [`Tool::run`].
    pub async fn kubectl_direct(&self, args: &[&str]) -> Result<Output> {
        self.direct.run(args).await
    }

    /// helm through the agent.
    ///
    /// # Errors
    /// As [`Tool::run`].
    pub async fn helm(&self, args: &[&str]) -> Result<Output> {
        self.link()?.helm.run(args).await
    }

    /// helm straight to the API server.
    ///
    /// # Errors
    /// As [`Tool::run`].
    pub async fn helm_direct(&self, args: &[&str]) -> Result<Output> {
        self.direct_helm.run(args).await
    }

    /// kubectl through the agent, for what [`Lab::kubectl`] does not do.
    ///
    /// # Errors
    /// In a lab without services.
    pub fn proxied(&self) -> Result<&Tool> {
        Ok(&self.link()?.kubectl)
    }

    /// kubectl straight to the API server.
    pub fn direct(&self) -> &Tool {
        &self.direct
    }

    /// kubectl as `system:masters`, for what a test sets up.
    pub fn admin(&self) -> &Tool {
        &self.admin
    }

    /// kubectl with a token of one's own, through the agent: see [`Lab::create_token`].
    ///
    /// # Errors
    /// When the kubeconfig cannot be written.
    pub fn kubectl_with_token(&self, name: &str, token: &str) -> Result<Tool> {
        let path = self.folder.path().join(format!("{name}.kubeconfig"));
        let link = self.link()?;
        let login = crate::kubeconfig::Login::Token(token);
        crate::kubeconfig::write(&path, &self.proxy_url()?, &link.ca_pem, name, &login)?;
        Ok(Tool::new(self.parts.path("kubectl")?, &path, self.folder.path()))
    }

    /// kubectl with a Kubernetes token, straight to the API server.
    ///
    /// # Errors
    /// When the kubeconfig cannot be written.
    pub fn direct_with_token(&self, name: &str, token: &str) -> Result<Tool> {
        let path = self.folder.path().join(format!("{name}.kubeconfig"));
        let ca_pem =
            std::fs::read_to_string(self.folder.path().join("pki/ca.crt")).context("cannot read the cluster's CA")?;
        let login = crate::kubeconfig::Login::Token(token);
        crate::kubeconfig::write(&path, self.api_url(), &ca_pem, name, &login)?;
        Ok(Tool::new(self.parts.path("kubectl")?, &path, self.folder.path()))
    }

    /// A token by `control-plane token create` with these arguments.
    ///
    /// # Errors
    /// When the control plane refuses.
    pub async fn create_token(&self, args: &[&str]) -> Result<String> {
        self.link()?.control_plane.create_token(args).await
    }

    /// `control-plane` with these arguments and the running one's settings; gives its stdout.
    ///
    /// # Errors
    /// When it ends with another status than 0.
    pub async fn control_plane(&self, args: &[&str]) -> Result<String> {
        self.link()?.control_plane.run(args).await
    }

    /// A process by its name: `etcd`, `kube-apiserver`, `kube-controller-manager`, `nats-server`, `control-plane`, a service, or
    /// `SERVICE-1`, `SERVICE-2`, … for its further replicas. With a node, `kubelet`, `containerd` and the
    /// others of it instead of the agent's services.
    ///
    /// # Errors
    /// When there is none of that name; the message has the names there are.
    pub fn process(&self, name: &str) -> Result<Arc<Process>> {
        self.processes.iter().find(|process| process.name() == name).cloned().ok_or_else(|| {
            let names: Vec<_> = self.processes.iter().map(|process| process.name()).collect();
            anyhow!("the lab has no process {name:?}, only {}", names.join(", "))
        })
    }

    /// Every process, in the order they were started.
    pub fn processes(&self) -> &[Arc<Process>] {
        &self.processes
    }

    /// Waits until every process is ready and a request through the agent is answered.
    ///
    /// # Errors
    /// When that is not so within `limit` (all together); the last state seen is in the message.
    pub async fn wait_ready(&self, limit: Duration) -> Result<()> {
        wait::until("the lab to be ready", limit, || async {
            for process in self.processes.iter() {
                process.ready().await?;
            }
            if self.link.is_some() {
                self.proxied()?.stdout(&["get", "--raw", "/version", "--request-timeout=5s"]).await?;
            }
            anyhow::Ok(())
        })
        .await
    }

    /// Asks for new ServiceAccount tokens and replaces the files, as a kubelet does some time before they expire.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn renew_tokens(&self) -> Result<()> {
        tokens::renew(&self.tokens, &self.admin).await
    }

    /// Another certificate of the same authority in the API server's files, which it looks at now and then.
    ///
    /// # Errors
    /// In a lab with a cluster that exists.
    pub fn renew_api_certificate(&self) -> Result<()> {
        let (authority, address) = self.authority.as_ref().context("this cluster has an authority of its own")?;
        cluster::issue_api(authority, *address).map(|_| ())
    }

    /// `https://ADDRESS:PORT` of the control plane.
    ///
    /// # Errors
    /// In a lab without services.
    pub fn url(&self) -> Result<&str> {
        Ok(&self.link()?.control_plane.url)
    }

    /// Where the control plane serves web apps of the cluster: over HTTP and HTTPS.
    ///
    /// # Errors
    /// In a lab without services.
    pub fn web(&self) -> Result<[SocketAddr; 2]> {
        Ok(self.link()?.control_plane.web)
    }

    /// The cluster's API as the control plane serves it.
    ///
    /// # Errors
    /// In a lab without services.
    pub fn proxy_url(&self) -> Result<String> {
        Ok(start::proxy_url(self.url()?, &self.options.cluster))
    }

    /// The API server itself.
    pub fn api_url(&self) -> &str {
        &self.api_url
    }

    /// PEM of the CA that signed the control plane's certificate.
    ///
    /// # Errors
    /// In a lab without services.
    pub fn ca_pem(&self) -> Result<&str> {
        Ok(&self.link()?.ca_pem)
    }

    /// Bearer token of the user `lab` at the control plane.
    ///
    /// # Errors
    /// In a lab without services.
    pub fn user_token(&self) -> Result<&str> {
        Ok(&self.link()?.user_token)
    }

    /// Bearer token of the agent.
    ///
    /// # Errors
    /// In a lab without services.
    pub fn agent_token(&self) -> Result<&str> {
        Ok(&self.link()?.agent_token)
    }

    /// The kubeconfig that leads through the agent.
    ///
    /// # Errors
    /// In a lab without services.
    pub fn kubeconfig(&self) -> Result<&Path> {
        Ok(&self.link()?.kubeconfig)
    }

    /// The kubeconfig that leads straight to the API server.
    pub fn kubeconfig_direct(&self) -> &Path {
        self.direct.kubeconfig()
    }

    /// The name the cluster registers under.
    pub fn cluster(&self) -> &str {
        &self.options.cluster
    }

    /// The run folder: logs, certificates, volumes. A test may keep files of its own in it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The Docker engine.
    ///
    /// # Errors
    /// In a lab without one.
    pub fn docker(&self) -> Result<&Docker> {
        self.docker.as_ref().context("this lab was started without a Docker engine")
    }

    /// The parts at hand.
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.state.read().processes
    }

    /// Says that it is up, for those who look from outside.
    pub(crate) fn finish_start(&self, summary: &str) -> Result<()> {
        self.state.change(|state| {
            state.phase = Phase::Up;
            summary.clone_into(&mut state.summary);
        })
    }

    /// A process more, for peers and backends of tests and benches. It is not started yet; it ends with the lab.
    pub fn add_process(&self, spec: crate::process::Spec) -> Process {
        Process::new(spec, &self.folder.logs(), self.spawner.clone(), Arc::clone(&self.state))
    }

    /// Ends everything in the reverse order of its start. In an existing cluster, what the lab installed goes too.
    ///
    /// # Errors
    /// When something does not end; the rest is ended all the same, and what is left stays written down.
    pub async fn stop(self) -> Result<()> {
        let mut result = Ok(());
        for process in self.processes.iter().rev() {
            let stopped = process.stop().await.map(|_| ());
            result = result.and(stopped);
        }
        let undone = self.state.read().undo(self.folder.path(), folder::GONE_WITHIN).await;
        result.and(undone)?;
        folder::forget(self.folder.path())
    }

    fn link(&self) -> Result<&Link> {
        self.link.as_ref().context("this lab was started without services")
    }
}
