//! A namespace with state-keeper's ServiceAccount and rights as the chart renders them, and a state-keeper in it.

use anyhow::{Result, ensure};
use bus::{Bus, LocalBus, RequestError, Service};
use e2e::chart::{Chart, Helm};
use lab::{Lab, until};
use runtime::{Context, Health};
use serde_json::Value;
use std::{path::PathBuf, time::Duration};
use tokio::task::JoinHandle;

pub const MAP: &str = "configmaps/pipeops-agent-state";
pub const SECRET: &str = "secrets/pipeops-agent-secrets";
pub const LEASE: &str = "leases.coordination.k8s.io/pipeops-agent-route-syncer";

const NAMESPACE_WITHIN: Duration = Duration::from_secs(20);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

pub struct Place {
    pub namespace: String,
    pub account: String,
    pub token_file: PathBuf,
    ca_file: PathBuf,
}

impl Place {
    pub async fn prepare(lab: &Lab, namespace: &str) -> Result<Self> {
        lab.admin().stdout(&["create", "namespace", namespace]).await?;
        let mut account = String::new();
        for object in Helm::find().await?.in_namespace(namespace).template(Chart::Agent, &[]).await? {
            let (kind, name) = (object.kind(), object.name());
            if !name.ends_with("-state-keeper") || !["ServiceAccount", "Role", "RoleBinding"].contains(&kind) {
                continue;
            }
            if kind == "ServiceAccount" {
                name.clone_into(&mut account);
            }
            lab.admin().stdout_with_input(&["apply", "-n", namespace, "-f", "-"], &object.0.to_string()).await?;
        }
        ensure!(!account.is_empty(), "the chart renders no ServiceAccount of state-keeper");
        let folder = lab.folder().join(namespace);
        std::fs::create_dir_all(&folder)?;
        let (ca_file, token_file) = (folder.join("ca.crt"), folder.join("token"));
        let ca = until("the namespace's kube-root-ca.crt", NAMESPACE_WITHIN, || {
            let path = r"jsonpath={.data.ca\.crt}";
            let args = ["get", "configmap", "kube-root-ca.crt", "-n", namespace, "-o", path];
            async move { lab.admin().stdout(&args).await }
        })
        .await?;
        std::fs::write(&ca_file, ca)?;
        std::fs::write(&token_file, lab.admin().stdout(&["create", "token", &account, "-n", namespace]).await?)?;
        Ok(Self { namespace: namespace.to_owned(), account, token_file, ca_file })
    }

    /// kubectl in this namespace, as an admin.
    pub async fn admin(&self, lab: &Lab, args: &[&str]) -> Result<String> {
        lab.admin().stdout(&[args, &["-n", &self.namespace]].concat()).await
    }

    pub async fn object(&self, lab: &Lab, name: &str) -> Result<Option<Value>> {
        let text = self.admin(lab, &["get", name, "-o", "json", "--ignore-not-found"]).await?;
        Ok(if text.trim().is_empty() { None } else { Some(serde_json::from_str(&text)?) })
    }
}

/// A state-keeper in this process, on a bus of its own.
pub struct Keeper {
    /// gateway-link's end of the bus.
    bus: Bus,
    pub health: Health,
    context: Context,
    task: JoinHandle<Result<()>>,
}

impl Keeper {
    pub fn start(place: &Place, lab: &Lab) -> Self {
        runtime::tls::install_provider();
        let mut options = state_keeper::Options::default();
        options.kubernetes.server.api_url = Some(lab.api_url().to_owned());
        options.kubernetes.server.ca_file.clone_from(&place.ca_file);
        options.kubernetes.server.token_file.clone_from(&place.token_file);
        options.kubernetes.check_interval = runtime::Duration::from_millis(500);
        options.state.namespace = Some(place.namespace.clone());
        let local = LocalBus::new();
        let context = Context::detached("state-keeper");
        let task = tokio::spawn(state_keeper::run_on(options, context.clone(), local.bus(Service::StateKeeper)));
        Self { bus: local.bus(Service::GatewayLink), health: context.health.clone(), context, task }
    }

    /// Asks as gateway-link does, once it is there to be asked.
    pub async fn ask<R: bus::Request>(&self, request: &R) -> Result<R::Reply, RequestError<R::Error>>
    where
        R::Error: Send,
    {
        let answer = until("state-keeper to answer on the bus", ANSWER_WITHIN, || async {
            match self.bus.request(request).await {
                Err(RequestError::NoResponder) => Err("nobody serves the subject"),
                answer => Ok(answer),
            }
        });
        answer.await.unwrap_or(Err(RequestError::NoResponder))
    }

    pub async fn wait_ready(&self, limit: Duration) -> Result<()> {
        until("state-keeper to be ready", limit, || async {
            ensure!(self.health.is_ready(), "{:?}", self.health);
            Ok(())
        })
        .await
    }

    /// Stops it as SIGTERM does, and gives how it ended.
    pub async fn stop(self) -> Result<()> {
        self.context.shutdown.cancel();
        self.task.await?
    }
}
