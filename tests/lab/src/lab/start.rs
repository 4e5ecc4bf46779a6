//! Starting a lab.

use super::{
    Lab, Link, Options, Place,
    folder::{self, RunFolder},
    installation::{Installation, bind_admins},
};
use crate::{
    cluster::{Cluster, GROUP, Site, USER},
    control_plane::ControlPlane,
    docker::Docker,
    folders,
    kubeconfig::{self, Login, Server},
    node::{self, Machine, Node},
    parts::{Parts, Use},
    pki::Authority,
    process::{Keeper, Process, Processes, Spawner, Spec},
    run::Tool,
    services::{Profile, Services},
    state::StateFile,
    tokens::{self, Refresher, Token},
    workload::{self, Kubelet},
};
use anyhow::{Context, Result, anyhow, ensure};
use serde_json::json;
use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

const READY_WITHIN: Duration = Duration::from_secs(60);
const NAMESPACE_READY_WITHIN: Duration = Duration::from_secs(20);

/// What grows while a lab starts. Dropped half-way, it ends what it has started.
struct Start {
    options: Options,
    parts: Parts,
    processes: Processes,
    spawner: Spawner,
    state: Arc<StateFile>,
    docker: Option<Docker>,
    machine: Option<Arc<Machine>>,
    folder: RunFolder,
}

/// The API server that the agent works for, and how the lab itself reaches it.
struct Api {
    server: Server,
    /// Where it and its pods reach this machine.
    address: Ipv4Addr,
    /// Of a cluster of the lab's own: what signs its certificate, and the address in that.
    authority: Option<(Authority, Ipv4Addr)>,
    admin: Tool,
    direct: Tool,
}

/// What the chart's workloads became.
struct Agent {
    link: Link,
    tokens: Vec<Token>,
    refresher: Refresher,
}

/// The cluster's API as the control plane serves it.
pub(super) fn proxy_url(control_plane: &str, cluster: &str) -> String {
    format!("{control_plane}/api/v1/clusters/agent/{cluster}/proxy")
}

impl Lab {
    /// Gets the parts, builds the services, starts everything and waits until a request goes through.
    ///
    /// # Errors
    /// When any of that fails; whatever was started has ended then.
    pub async fn start(options: Options) -> Result<Self> {
        Self::start_unless(options, std::future::pending()).await
    }

    /// As [`Lab::start`], given up when `stop` ends first.
    pub(crate) async fn start_unless(options: Options, stop: impl Future<Output = ()>) -> Result<Self> {
        // Whoever runs this may have other TLS users in the process that chose first: that is as good.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let folder = if options.current { RunFolder::current().await? } else { RunFolder::own().await? };
        let run = folder.path().to_owned();
        let state = Arc::new(StateFile::create(&run)?);
        let started = tokio::select! {
            lab = Start::with_parts(options, folder, Arc::clone(&state)) => lab,
            () = stop => Err(anyhow!("stopped before it was up")),
        };
        let Err(error) = started else { return started };
        let error = error.context(format!("the lab did not start; its logs are in {}", folder::logs(&run).display()));
        match state.read().undo(&run, folder::GONE_WITHIN).await.and_then(|()| folder::forget(&run)) {
            Ok(()) => Err(error),
            Err(left) => Err(error.context(format!("{left:#}"))),
        }
    }
}

impl Start {
    async fn with_parts(options: Options, folder: RunFolder, state: Arc<StateFile>) -> Result<Lab> {
        let mut users = vec![Use::Lab];
        if options.node {
            ensure!(options.kubeconfig.is_none(), "a cluster that exists has nodes of its own");
            Node::require(&options.progress).await?;
            users.push(Use::Node);
        }
        if options.docker {
            ensure!(
                options.kubeconfig.is_none() && !options.node && !options.services,
                "a Docker engine is for a lab of nothing but a cluster without a node"
            );
        }
        if options.bench {
            users.push(Use::Benches);
        }
        let (parts, services) = tokio::try_join!(Parts::of(&users, &options.progress), async {
            let profile = if options.bench { Profile::Dist } else { Profile::Release };
            if options.services { Services::build(profile, &options.progress).await.map(Some) } else { Ok(None) }
        })?;
        let start = Self {
            options,
            parts,
            processes: Processes::default(),
            spawner: Spawner::new()?,
            state,
            docker: None,
            machine: None,
            folder,
        };
        start.everything(services).await
    }

    async fn everything(mut self, services: Option<Services>) -> Result<Lab> {
        let api = self.cluster(services.as_ref()).await?;
        // Not process 1 of a node: nothing can be started in its place.
        let kept = self.processes.iter().filter(|process| process.name() != Machine::INIT);
        let keeper = Keeper::start(kept)?;
        let (place, existing) = (self.options.place(), self.options.kubeconfig.is_some());
        if existing && services.is_some() {
            let helm = self.tool("helm", api.admin.kubeconfig())?;
            let installation = Installation::plan(place, &api.server.url, api.admin.clone(), helm).await?;
            self.state.change(|state| state.installation = Some(installation))?;
        }
        if services.is_some() || !existing {
            bind_admins(&api.admin, place, GROUP).await?;
        }
        let agent = match &services {
            Some(services) => Some(self.agent(services, &api).await?),
            None => None,
        };
        let (link, tokens, refresher) = match agent {
            Some(Agent { link, tokens, refresher }) => (Some(link), tokens, Some(refresher)),
            None => (None, Vec::new(), None),
        };
        let lab = Lab {
            direct_helm: self.tool("helm", api.direct.kubeconfig())?,
            options: self.options,
            parts: self.parts,
            processes: self.processes,
            tokens,
            _refresher: refresher,
            _keeper: keeper,
            admin: api.admin,
            direct: api.direct,
            api_url: api.server.url,
            authority: api.authority,
            link,
            state: self.state,
            spawner: self.spawner,
            docker: self.docker,
            machine: self.machine,
            folder: self.folder,
        };
        let step = lab.options.progress.step("ready", "every process, and a request through the agent");
        match lab.wait_ready(READY_WITHIN).await {
            Ok(()) => step.done("every process is"),
            Err(error) => {
                step.failed("not everything is");
                return Err(error);
            }
        }
        lab.state.change(|state| {
            state.kubeconfig = lab.link.as_ref().map(|link| link.kubeconfig.clone());
            state.direct = Some(lab.direct.clone());
        })?;
        Ok(lab)
    }

    async fn cluster(&mut self, services: Option<&Services>) -> Result<Api> {
        let api = match self.options.kubeconfig.clone() {
            Some(kubeconfig) => self.existing(&kubeconfig).await?,
            None if self.options.node => self.with_node(services).await?,
            None if self.options.docker => self.with_docker().await?,
            None => {
                let step = self.options.progress.step("Kubernetes", "etcd, kube-apiserver, kube-controller-manager");
                let traces = self.options.api_server_traces;
                let cluster = Cluster::prepare(self.folder.path(), &self.parts, traces, Site::loopback()?)?;
                for spec in [&cluster.etcd, &cluster.apiserver, &cluster.controller_manager] {
                    self.start(spec.clone()).await?.wait_ready(READY_WITHIN).await?;
                }
                step.done(&format!("answers at {}", cluster.server.url));
                self.api(cluster)?
            }
        };
        // A server that does not answer shows here, before anything is changed in it.
        api.admin.stdout(&["get", "--raw", "/version"]).await.context("the API server does not answer")?;
        Ok(api)
    }

    async fn existing(&self, kubeconfig: &Path) -> Result<Api> {
        let kubeconfig = std::path::absolute(kubeconfig)?;
        // The user may go on to another context while the lab runs.
        let copy = self.folder.path().join(folder::EXISTING);
        let server = kubeconfig::copy_current(&self.tool("kubectl", &kubeconfig)?, &copy)
            .await
            .with_context(|| format!("cannot use the kubeconfig {}", kubeconfig.display()))?;
        let tool = self.tool("kubectl", &copy)?;
        Ok(Api { server, address: Ipv4Addr::LOCALHOST, authority: None, admin: tool.clone(), direct: tool })
    }

    /// A cluster with a node, in a machine of its own.
    async fn with_node(&mut self, services: Option<&Services>) -> Result<Api> {
        let machine = self.machine().await?;
        let step = self.options.progress.step("Kubernetes", "a control plane and a node");
        let traces = self.options.api_server_traces;
        let cluster = Cluster::prepare(self.folder.path(), &self.parts, traces, Site::machine(machine.address, true))?;
        let node = Node::prepare(&machine, &self.parts, &cluster)?;
        self.start_by(&machine.spawner, node.containerd()).await?;
        let parts = self.parts.clone();
        let (imported, started) = tokio::join!(node.import(&machine, &parts, services), async {
            for spec in [&cluster.etcd, &cluster.apiserver] {
                self.start_by(&machine.spawner, spec.clone()).await?.wait_ready(READY_WITHIN).await?;
            }
            self.start_by(&machine.spawner, cluster.controller_manager.clone()).await?;
            anyhow::Ok(())
        });
        started?;
        imported?;
        let mut rest = Vec::new();
        for spec in node.rest() {
            rest.push(self.start_by(&machine.spawner, spec).await?);
        }
        let mut api = self.api(cluster)?;
        api.address = machine.gateway;
        node.join(&api.admin).await?;
        rest.push(self.start_by(&machine.spawner, node.firewall()).await?);
        for process in rest {
            process.wait_ready(READY_WITHIN).await?;
        }
        node.names(&api.admin).await?;
        step.done(&format!("answers at {}", api.server.url));
        Ok(api)
    }

    /// A cluster without a node, and a Docker engine, in a machine of their own: what uses the network of the engine's machine reaches the
    /// API server, as it does a local cluster's.
    async fn with_docker(&mut self) -> Result<Api> {
        let package = Docker::require(&self.options.progress).await?;
        let machine = self.machine().await?;
        let step = self.options.progress.step("Kubernetes", "a control plane, and a Docker engine beside it");
        let docker = Docker::prepare(&machine, &package, &self.parts)?;
        self.start_by(&machine.spawner, docker.engine()?).await?;
        let traces = self.options.api_server_traces;
        let site = Site::machine(machine.address, false);
        let cluster = Cluster::prepare(self.folder.path(), &self.parts, traces, site)?;
        for spec in [&cluster.etcd, &cluster.apiserver, &cluster.controller_manager] {
            self.start_by(&machine.spawner, spec.clone()).await?.wait_ready(READY_WITHIN).await?;
        }
        docker.wait_ready(READY_WITHIN).await?;
        self.docker = Some(docker);
        step.done(&format!("answers at {}", cluster.server.url));
        self.api(cluster)
    }

    /// A machine inside this one.
    async fn machine(&mut self) -> Result<Arc<Machine>> {
        let step = self.options.progress.step("machine", "namespaces of its own");
        let machine = Arc::new(Machine::plan(&self.folder.path().join("node"), &self.folder.logs().join("pods"))?);
        self.machine = Some(Arc::clone(&machine));
        self.state.change(|state| state.node = Some(machine.remains.clone()))?;
        let init = self.start_by(&machine.spawner, machine.init()).await?;
        machine.set_up(init.pid().context("the node's first process has ended")?).await?;
        step.done(&format!("is {}, and this machine {}", machine.address, machine.gateway));
        Ok(machine)
    }

    fn api(&self, cluster: Cluster) -> Result<Api> {
        Ok(Api {
            admin: self.tool("kubectl", &cluster.admin_kubeconfig)?,
            direct: self.tool("kubectl", &cluster.direct_kubeconfig)?,
            address: Ipv4Addr::LOCALHOST,
            server: cluster.server,
            authority: Some((cluster.authority, cluster.address)),
        })
    }

    async fn agent(&mut self, services: &Services, api: &Api) -> Result<Agent> {
        let progress = self.options.progress.clone();
        let step = progress.step("control plane", "starts");
        let control_plane = ControlPlane::prepare(
            self.folder.path(),
            services.path("control-plane")?,
            api.address,
            &self.options.control_plane_env,
        )?;
        let agent_token = control_plane.create_token(&["--agent", "--cluster", &self.options.cluster]).await?;
        let user_token = control_plane.create_token(&["--user", USER, "--group", GROUP]).await?;
        self.start(control_plane.spec.clone()).await?.wait_ready(READY_WITHIN).await?;
        let ca_pem = control_plane.ca_pem()?;
        step.done(&format!("answers at {}", control_plane.url));

        let place = self.options.place();
        let step = progress.step("chart", &format!("helm install {}", place.release));
        self.install(&control_plane, &ca_pem, &agent_token, api).await?;
        step.done("installed");

        let tokens = if self.options.node { self.pods(api).await? } else { self.processes(services, api).await? };

        let kubeconfig = self.folder.path().join("lab.kubeconfig");
        let server = proxy_url(&control_plane.url, &self.options.cluster);
        kubeconfig::write(&kubeconfig, &server, &ca_pem, USER, &Login::Token(&user_token))?;
        Ok(Agent {
            refresher: Refresher::start(tokens.clone(), api.admin.clone())?,
            tokens,
            link: Link {
                kubectl: self.tool("kubectl", &kubeconfig)?,
                helm: self.tool("helm", &kubeconfig)?,
                control_plane,
                ca_pem,
                agent_token,
                user_token,
                kubeconfig,
            },
        })
    }

    /// The agent as processes of this machine: the lab is their kubelet.
    async fn processes(&mut self, services: &Services, api: &Api) -> Result<Vec<Token>> {
        let step = self.options.progress.step("agent", "one process per container");
        let namespace = self.options.place().namespace;
        let binary = |name: &str| services.path(name).or_else(|_| self.parts.path(name).map(Path::to_owned));
        let kubelet = Kubelet {
            namespace,
            api_host: &api.server.host,
            api_port: api.server.port,
            folder: &self.folder.path().join("pods"),
            binary: &binary,
        };
        let pods = workload::pods(&api.admin, &kubelet).await?;
        if self.options.kubeconfig.is_some() {
            // A cluster with nodes would run the pods as well, and the cluster would have two agents.
            api.admin.stdout(&["scale", "deployments", "--all", "--replicas=0", "-n", namespace]).await?;
        }
        tokens::renew(&pods.tokens, &api.admin).await?;
        let names: Vec<_> = pods.specs.iter().map(|spec| spec.name.clone()).collect();
        for spec in pods.specs {
            self.start(spec).await?;
        }
        step.done(&names.join(", "));
        Ok(pods.tokens)
    }

    /// The agent as pods of the lab's node, which sees to their tokens.
    async fn pods(&self, api: &Api) -> Result<Vec<Token>> {
        let step = self.options.progress.step("agent", "pods");
        let namespace = self.options.place().namespace;
        let wait = ["wait", "--for=condition=Available", "deployments", "--all", "-n", namespace, "--timeout=90s"];
        let available = api.admin.stdout(&wait).await.map(drop);
        node::explained(&api.admin, "the agent's pods do not get ready", available).await?;
        step.done("are ready");
        Ok(Vec::new())
    }

    /// `helm install` as a user does it, and what a namespace gets from the controllers.
    async fn install(&self, control_plane: &ControlPlane, ca_pem: &str, agent_token: &str, api: &Api) -> Result<()> {
        let mut values = json!({
            "agent": {
                "cluster": { "name": self.options.cluster },
                "pipeops": { "apiUrl": control_plane.url, "token": agent_token, "tls": { "ca": ca_pem } },
            },
        });
        for (service, replicas) in &self.options.replicas {
            if let Some(values) = values.as_object_mut() {
                values.insert(service.clone(), json!({ "replicaCount": replicas }));
            }
        }
        let file = self.folder.path().join("values.json");
        folders::write_atomically(&file, &serde_json::to_vec_pretty(&values)?, 0o600)?;
        let (file, chart) =
            (file.display().to_string(), folders::workspace().join("charts/pipeops-agent").display().to_string());
        let Place { namespace, release } = self.options.place();
        let mut args = match self.options.kubeconfig {
            None => vec!["install"],
            // A lab that was killed may have left a release there.
            Some(_) => vec!["upgrade", "--install"],
        };
        args.extend([release, &chart, "-n", namespace, "--create-namespace", "-f", &file]);
        for value in &self.options.values {
            args.extend(["--set-string", value]);
        }
        if self.options.node {
            let namespace = restricted(namespace).to_string();
            api.admin.stdout_with_input(&["apply", "-f", "-"], &namespace).await?;
        }
        self.tool("helm", api.admin.kubeconfig())?.stdout(&args).await.context("the chart does not install")?;
        let question = ["get", "configmap", "kube-root-ca.crt", "-n", namespace];
        crate::wait::until("the namespace's kube-root-ca.crt", NAMESPACE_READY_WITHIN, || api.admin.stdout(&question))
            .await?;
        Ok(())
    }

    async fn start(&mut self, spec: Spec) -> Result<Arc<Process>> {
        self.start_by(&self.spawner.clone(), spec).await
    }

    async fn start_by(&mut self, spawner: &Spawner, spec: Spec) -> Result<Arc<Process>> {
        let process = Process::new(spec, &self.folder.logs(), spawner.clone(), Arc::clone(&self.state));
        let process = Arc::new(process);
        self.processes.push(Arc::clone(&process));
        process.start().await?;
        Ok(process)
    }

    fn tool(&self, binary: &str, kubeconfig: &Path) -> Result<Tool> {
        let home: PathBuf = self.folder.path().join("home");
        Ok(Tool::new(self.parts.path(binary)?, kubeconfig, &home))
    }
}

/// A namespace whose pods may do nothing special.
fn restricted(name: &str) -> serde_json::Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": name,
            "labels": {
                "pod-security.kubernetes.io/enforce": "restricted",
                "pod-security.kubernetes.io/warn": "restricted",
            },
        },
    })
}
