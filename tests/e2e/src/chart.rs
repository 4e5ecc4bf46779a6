//! Rendering the charts with helm, and looking into what comes out.

use anyhow::{Context, Result, ensure};
use lab::{Parts, Progress};
use serde_json::Value;
use std::{
    path::PathBuf,
    process::{Output as Raw, Stdio},
    sync::LazyLock,
};
use tokio::process::Command;

static AGENT: LazyLock<String> = LazyLock::new(|| folder("pipeops-agent"));
static CONTROL_PLANE: LazyLock<String> = LazyLock::new(|| folder("pipeops-control-plane"));

fn folder(name: &str) -> String {
    lab::workspace().join("charts").join(name).to_string_lossy().into_owned()
}

/// One of the project's charts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chart {
    Agent,
    ControlPlane,
}

impl Chart {
    pub const ALL: [Self; 2] = [Self::Agent, Self::ControlPlane];

    /// Where it is.
    #[must_use]
    pub fn folder(self) -> &'static str {
        match self {
            Self::Agent => &AGENT,
            Self::ControlPlane => &CONTROL_PLANE,
        }
    }

    /// The values without which it does not render.
    #[must_use]
    pub fn required(self) -> &'static [&'static str] {
        match self {
            Self::Agent => &[
                "agent.cluster.name=demo",
                "agent.pipeops.apiUrl=https://control-plane.example.com:8443",
                "agent.pipeops.token=secret",
            ],
            Self::ControlPlane => &[],
        }
    }

    /// Every chart with its defaults and with what somebody else might set.
    #[must_use]
    pub fn variants() -> [(Self, Vec<&'static str>); 6] {
        [
            (Self::Agent, vec![]),
            (
                Self::Agent,
                vec![
                    "gateway-link.replicaCount=3",
                    "proxy-executor.replicaCount=2",
                    "route-syncer.replicaCount=2",
                    "route-syncer.refreshInterval=30m",
                    "gateway-link.server.listen=[::]:9090",
                    "agent.kubernetes.apiUrl=https://[fd00::1]:6444",
                    "agent.kubernetes.tokenExpirationSeconds=600",
                    "agent.telemetry.otlpEndpoint=http://collector:4318",
                    "agent.id=agent-1",
                    "agent.labels.region=north",
                    "agent.services.allow[0]=shop/*:80",
                    "agent.services.clusterDomain=corp.example",
                    "gateway-link.tunnels.enabled=false",
                    "agent.pipeops.tls.insecureSkipVerify=true",
                    "agent.pipeops.tls.clientSecretName=client",
                    "agent.pipeops.tls.pins[0]=sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
                    "agent.pipeops.proxy.url=http://user:secret@proxy.example.com:3128",
                    "agent.pipeops.proxy.noProxy=.example.org",
                    "agent.pipeops.compression=true",
                    "proxy-executor.rbac.bindings[0].group=developers",
                    "proxy-executor.rbac.bindings[0].clusterRole=view",
                    "proxy-executor.rbac.bindings[1].user=alice",
                    "proxy-executor.rbac.bindings[1].clusterRole=edit",
                    "proxy-executor.rbac.bindings[1].namespace=default",
                    "proxy-executor.policy.readOnly=true",
                    "proxy-executor.policy.verbs[0]=get",
                    "proxy-executor.policy.namespaces[0]=default",
                    "proxy-executor.policy.deniedSubresources[0]=*/proxy",
                    "proxy-executor.facts.counts=false",
                    "image.registry=mirror.example.com/pipeops/",
                    "imagePullSecrets[0].name=pull",
                    "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.name=monitoring",
                    "tolerations[0].operator=Exists",
                    "state-keeper.extraVolumes[0].name=scratch",
                    "state-keeper.extraVolumes[0].emptyDir.sizeLimit=1Mi",
                    "state-keeper.extraVolumeMounts[0].name=scratch",
                    "state-keeper.extraVolumeMounts[0].mountPath=/scratch",
                ],
            ),
            (
                Self::Agent,
                vec![
                    "agent.pipeops.existingSecret.name=mine",
                    "agent.pipeops.tls.caConfigMap.name=authorities",
                    "bus.existingSecret=passwords",
                    "proxy-executor.rbac.mode=view",
                    "networkPolicy.enabled=false",
                ],
            ),
            (Self::Agent, vec!["nats.enabled=false", "bus.url=nats://bus.example.com:4222", "rbac.create=false"]),
            (Self::ControlPlane, vec![]),
            (
                Self::ControlPlane,
                vec![
                    "tls.secretName=certificate",
                    "tls.clientCaConfigMap.name=agents",
                    "persistence.enabled=false",
                    "service.type=LoadBalancer",
                    "web.httpListen=0.0.0.0:8081",
                    "web.httpsListen=0.0.0.0:8444",
                    "web.certsSecretName=apps",
                    "web.trustedProxies[0]=10.0.0.0/8",
                    "telemetry.otlpEndpoint=http://collector:4318",
                    "networkPolicy.metricsFrom[0].podSelector.matchLabels.name=prometheus",
                ],
            ),
        ]
    }

    /// A file of it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(self, file: &str) -> Result<String> {
        let path = PathBuf::from(self.folder()).join(file);
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// `values.yaml`, each subchart's below its name.
    fn values(self) -> Result<Value> {
        let mut values: Value = serde_saphyr::from_str(&self.read("values.yaml")?)?;
        if self == Self::Agent {
            for entry in std::fs::read_dir(PathBuf::from(self.folder()).join("charts"))? {
                let name = entry?.file_name().to_string_lossy().into_owned();
                let below = serde_saphyr::from_str(&self.read(&format!("charts/{name}/values.yaml"))?)?;
                values.as_object_mut().context("values.yaml is a table")?.insert(name, below);
            }
        }
        Ok(values)
    }

    /// Paths of the tables whose keys the chart decides; "" is the outermost. Kubernetes' own types are not among them.
    ///
    /// # Errors
    /// When its values cannot be read.
    pub fn tables(self) -> Result<Vec<String>> {
        let mut found = vec![String::new()];
        walk(&self.values()?, "", &mut |path, value| {
            if value.as_object().is_some_and(|table| !table.is_empty()) {
                found.push(path.to_owned());
            }
        });
        Ok(found)
    }

    /// Paths of the single values.
    ///
    /// # Errors
    /// When its values cannot be read.
    pub fn leaves(self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        walk(&self.values()?, "", &mut |path, value| {
            if !value.is_object() {
                found.push(path.to_owned());
            }
        });
        Ok(found)
    }
}

fn walk(value: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
    for (key, value) in value.as_object().into_iter().flatten() {
        if matches!(key.as_str(), "podSecurityContext" | "securityContext" | "requests" | "limits") {
            continue;
        }
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        visit(&path, value);
        walk(value, &path, visit);
    }
}

/// helm, without a cluster.
#[derive(Debug)]
pub struct Helm {
    binary: PathBuf,
    namespace: String,
}

/// How a run of helm ended.
#[derive(Debug)]
pub struct Output {
    raw: Raw,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    #[must_use]
    pub fn success(&self) -> bool {
        self.raw.status.success()
    }
}

impl Helm {
    /// The lab's; what it renders is for `pipeops-system`.
    ///
    /// # Errors
    /// When there is none.
    pub async fn find() -> Result<Self> {
        let binary = Parts::only("helm", &Progress::slow_only()).await?.path("helm")?.to_owned();
        Ok(Self { binary, namespace: "pipeops-system".to_owned() })
    }

    /// From now on what it renders is for `namespace`.
    #[must_use]
    pub fn in_namespace(self, namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), ..self }
    }

    /// Runs it with these arguments, however it ends.
    ///
    /// # Errors
    /// When it cannot be run.
    pub async fn run(&self, args: &[&str]) -> Result<Output> {
        let raw = Command::new(&self.binary).args(args).stdin(Stdio::null()).kill_on_drop(true).output().await;
        let raw = raw.with_context(|| format!("cannot run {}", self.binary.display()))?;
        let stdout = String::from_utf8_lossy(&raw.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&raw.stderr).into_owned();
        Ok(Output { raw, stdout, stderr })
    }

    /// `helm template` with both lists of values, however it ends.
    ///
    /// # Errors
    /// When it cannot be run.
    pub async fn template_raw(&self, chart: Chart, values: &[&str], more: &[&str]) -> Result<Output> {
        // A helm that was built without naming a Kubernetes version takes itself for one of an ancient cluster.
        let mut args = vec![
            "template",
            "pipeops-agent",
            chart.folder(),
            "--namespace",
            &self.namespace,
            "--kube-version",
            "1.33.0",
        ];
        args.extend(values.iter().chain(more).flat_map(|value| ["--set", value]));
        self.run(&args).await
    }

    /// The rendered manifest with the required values and these.
    ///
    /// # Errors
    /// When it does not render.
    pub async fn render(&self, chart: Chart, values: &[&str]) -> Result<String> {
        let output = self.template_raw(chart, chart.required(), values).await?;
        ensure!(output.success(), "helm template {} {values:?}: {}", chart.folder(), output.stderr);
        Ok(output.stdout)
    }

    /// The rendered objects with the required values and these.
    ///
    /// # Errors
    /// As [`Helm::render`], and when what it renders is not YAML.
    pub async fn template(&self, chart: Chart, values: &[&str]) -> Result<Vec<Object>> {
        let rendered = self.render(chart, values).await?;
        let documents: Vec<Value> = serde_saphyr::from_multiple(&rendered).context("what helm renders is not YAML")?;
        Ok(documents.into_iter().filter(|document| !document.is_null()).map(Object).collect())
    }
}

/// A rendered object.
#[derive(Clone, Debug)]
pub struct Object(pub Value);

impl Object {
    #[must_use]
    pub fn kind(&self) -> &str {
        text(&self.0, "/kind")
    }

    #[must_use]
    pub fn name(&self) -> &str {
        text(&self.0, "/metadata/name")
    }

    /// Which service it belongs to.
    #[must_use]
    pub fn service(&self) -> String {
        text(&self.0, "/metadata/labels/app.kubernetes.io~1name").to_owned()
    }

    /// The pod's spec, if it makes pods.
    #[must_use]
    pub fn pod(&self) -> Option<&Value> {
        self.0.pointer("/spec/template/spec")
    }

    /// The items of the array at `pointer`, if there is one.
    pub fn list(&self, pointer: &str) -> impl Iterator<Item = &Value> {
        self.0.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
    }
}

/// The text at `pointer`, empty when there is none.
#[must_use]
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
