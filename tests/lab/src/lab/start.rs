//! Starting a lab.

use super::{
    Lab, Link, Options, Place,
    folder::{self, RunFolder},
    installation::{Installation, bind_admins},
};
use crate::{
    cluster::{Cluster, GROUP, USER},
    control_plane::ControlPlane,
    folders,
    kubeconfig::{self, Login, Server},
    parts::Parts,
    process::{Process, Spawner, Spec},
    run::Tool,
    services::{Profile, Services},
    state::StateFile,
    tokens::{self, Refresher, Token},
    workload::{self, Node},
};
use anyhow::{Context, Result, anyhow};
use serde_json::json;
use std::{
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
    processes: Vec<Arc<Process>>,
    spawner: Spawner,
    state: Arc<StateFile>,
    folder: RunFolder,
}

/// The API server that the agent works for, and how the lab itself reaches it.
struct Api {
    server: Server,
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
        match state.read().uninstall(&run).await.and_then(|()| folder::forget(&run)) {
            Ok(()) => Err(error),
            Err(left) => Err(error.context(format!("{left:#}"))),
        }
    }
}

impl Start {
    async fn with_parts(options: Options, folder: RunFolder, state: Arc<StateFile>) -> Result<Lab> {
        let (parts, services) = tokio::try_join!(Parts::get(options.bench, &options.progress), async {
            let profile = if options.bench { Profile::Dist } else { Profile::Release };
            if options.services { Services::build(profile, &options.progress).await.map(Some) } else { Ok(None) }
        })?;
        let start = Self { options, parts, processes: Vec::new(), spawner: Spawner::new()?, state, folder };
        start.everything(services).await
    }

    async fn everything(mut self, services: Option<Services>) -> Result<Lab> {
        let step = self.options.progress.step("Kubernetes", "etcd, kube-apiserver, kube-controller-manager");
        let api = self.cluster().await;
        match &api {
            Ok(api) => step.done(&format!("answers at {}", api.server.url)),
            Err(_) => step.failed("does not start"),
        }
        let api = api?;
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
            admin: api.admin,
            direct: api.direct,
            api_url: api.server.url,
            link,
            state: self.state,
            spawner: self.spawner,
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
            state.kubeconfig_direct = Some(lab.direct.kubeconfig().to_owned());
        })?;
        Ok(lab)
    }

    async fn cluster(&mut self) -> Result<Api> {
        let api = match self.options.kubeconfig.clone() {
            Some(kubeconfig) => {
                let kubeconfig = std::path::absolute(kubeconfig)?;
                // The user may go on to another context while the lab runs.
                let copy = self.folder.path().join(folder::EXISTING);
                let server = kubeconfig::copy_current(&self.tool("kubectl", &kubeconfig)?, &copy)
                    .await
                    .with_context(|| format!("cannot use the kubeconfig {}", kubeconfig.display()))?;
                let tool = self.tool("kubectl", &copy)?;
                Api { server, admin: tool.clone(), direct: tool }
            }
            None => {
                let traces = self.options.api_server_traces;
                let cluster = Cluster::prepare(self.folder.path(), &self.parts, traces)?;
                for spec in [&cluster.etcd, &cluster.apiserver, &cluster.controller_manager] {
                    self.start(spec.clone()).await?.wait_ready(READY_WITHIN).await?;
                }
                Api {
                    admin: self.tool("kubectl", &cluster.admin_kubeconfig)?,
                    direct: self.tool("kubectl", &cluster.direct_kubeconfig)?,
                    server: cluster.server,
                }
            }
        };
        // A server that does not answer shows here, before anything is changed in it.
        api.admin.stdout(&["get", "--raw", "/version"]).await.context("the API server does not answer")?;
        Ok(api)
    }

    async fn agent(&mut self, services: &Services, api: &Api) -> Result<Agent> {
        let progress = self.options.progress.clone();
        let step = progress.step("control plane", "starts");
        let control_plane = ControlPlane::prepare(
            self.folder.path(),
            services.path("control-plane")?,
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

        let step = progress.step("agent", "one process per container");
        let binary = |name: &str| services.path(name).or_else(|_| self.parts.path(name).map(Path::to_owned));
        let node = Node {
            namespace: place.namespace,
            api_host: &api.server.host,
            api_port: api.server.port,
            folder: &self.folder.path().join("pods"),
            binary: &binary,
        };
        let pods = workload::pods(&api.admin, &node).await?;
        if self.options.kubeconfig.is_some() {
            // A cluster with nodes would run the pods as well, and the cluster would have two agents.
            api.admin.stdout(&["scale", "deployments", "--all", "--replicas=0", "-n", place.namespace]).await?;
        }
        tokens::renew(&pods.tokens, &api.admin).await?;
        let names: Vec<_> = pods.specs.iter().map(|spec| spec.name.clone()).collect();
        for spec in pods.specs {
            self.start(spec).await?;
        }
        step.done(&names.join(", "));

        let kubeconfig = self.folder.path().join("lab.kubeconfig");
        let server = proxy_url(&control_plane.url, &self.options.cluster);
        kubeconfig::write(&kubeconfig, &server, &ca_pem, USER, &Login::Token(&user_token))?;
        Ok(Agent {
            refresher: Refresher::start(pods.tokens.clone(), api.admin.clone())?,
            tokens: pods.tokens,
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
        self.tool("helm", api.admin.kubeconfig())?.stdout(&args).await.context("the chart does not install")?;
        let question = ["get", "configmap", "kube-root-ca.crt", "-n", namespace];
        crate::wait::until("the namespace's kube-root-ca.crt", NAMESPACE_READY_WITHIN, || api.admin.stdout(&question))
            .await?;
        Ok(())
    }

    async fn start(&mut self, spec: Spec) -> Result<Arc<Process>> {
        let process = Process::new(spec, &self.folder.logs(), self.spawner.clone(), Arc::clone(&self.state));
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
