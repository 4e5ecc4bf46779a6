//! The part of Kubernetes objects that a kubelet reads. A field that would change what runs and is not here is not in the chart either:
//! unknown kinds of volumes and sources are refused where they are used.

use anyhow::{Context, Result, anyhow};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, de::IgnoredAny};
use std::collections::BTreeMap;

/// Everything in the namespace.
#[derive(Debug, Default)]
pub(super) struct Objects {
    pub(super) workloads: Vec<Object<Workload>>,
    pub(super) services: Vec<Object<Service>>,
    secrets: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    config_maps: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Object<S> {
    pub(super) metadata: Metadata,
    pub(super) spec: S,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Metadata {
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Workload {
    pub(super) replicas: Option<u32>,
    pub(super) template: Template,
}

#[derive(Debug, Deserialize)]
pub(super) struct Template {
    #[serde(default)]
    pub(super) metadata: Metadata,
    pub(super) spec: PodSpec,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodSpec {
    pub(super) containers: Vec<Container>,
    #[serde(default)]
    pub(super) volumes: Vec<Volume>,
    pub(super) service_account_name: Option<String>,
    pub(super) automount_service_account_token: Option<bool>,
    pub(super) termination_grace_period_seconds: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Container {
    pub(super) image: String,
    #[serde(default)]
    pub(super) command: Vec<String>,
    #[serde(default)]
    pub(super) args: Vec<String>,
    #[serde(default)]
    pub(super) env: Vec<EnvVar>,
    #[serde(default)]
    pub(super) env_from: Vec<EnvFrom>,
    #[serde(default)]
    pub(super) ports: Vec<ContainerPort>,
    #[serde(default)]
    pub(super) volume_mounts: Vec<VolumeMount>,
    pub(super) readiness_probe: Option<Probe>,
}

impl Container {
    /// The program: the command's, or the image's own, which is called as its repository. The bus's image is `nats`.
    pub(super) fn binary(&self) -> &str {
        if let Some(command) = self.command.first() {
            return last_segment(command);
        }
        let image = last_segment(&self.image);
        match image.split([':', '@']).next().unwrap_or(image) {
            "nats" => "nats-server",
            name => name,
        }
    }

    pub(super) fn port_named(&self, name: &str) -> Option<u16> {
        self.ports.iter().find(|port| port.name.as_deref() == Some(name)).map(|port| port.container_port)
    }
}

fn last_segment(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, last)| last)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ContainerPort {
    pub(super) name: Option<String>,
    pub(super) container_port: u16,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Probe {
    pub(super) http_get: Option<HttpGet>,
}

#[derive(Debug, Deserialize)]
pub(super) struct HttpGet {
    pub(super) path: Option<String>,
    pub(super) port: IntOrName,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum IntOrName {
    Int(u16),
    Name(String),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EnvVar {
    pub(super) name: String,
    pub(super) value: Option<String>,
    pub(super) value_from: Option<EnvSource>,
}

#[derive(Debug, Deserialize)]
pub(super) enum EnvSource {
    #[serde(rename = "secretKeyRef")]
    Secret(KeyRef),
    #[serde(rename = "configMapKeyRef")]
    ConfigMap(KeyRef),
    #[serde(rename = "fieldRef")]
    Field(FieldRef),
}

#[derive(Debug, Deserialize)]
pub(super) struct KeyRef {
    #[serde(default)]
    pub(super) name: String,
    pub(super) key: String,
    #[serde(default)]
    pub(super) optional: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FieldRef {
    pub(super) field_path: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EnvFrom {
    #[serde(default)]
    pub(super) prefix: String,
    pub(super) secret_ref: Option<NameRef>,
    pub(super) config_map_ref: Option<NameRef>,
}

#[derive(Debug, Deserialize)]
pub(super) struct NameRef {
    pub(super) name: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct VolumeMount {
    pub(super) name: String,
    pub(super) mount_path: String,
    pub(super) sub_path: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Volume {
    pub(super) name: String,
    #[serde(flatten)]
    pub(super) source: VolumeSource,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum VolumeSource {
    Secret(SecretVolume),
    ConfigMap(KeysFrom),
    Projected(Projected),
    DownwardAPI(Downward),
    EmptyDir(IgnoredAny),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SecretVolume {
    pub(super) secret_name: String,
    #[serde(default)]
    pub(super) items: Vec<KeyToPath>,
    #[serde(default)]
    pub(super) optional: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct KeysFrom {
    pub(super) name: String,
    #[serde(default)]
    pub(super) items: Vec<KeyToPath>,
    #[serde(default)]
    pub(super) optional: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct KeyToPath {
    pub(super) key: String,
    pub(super) path: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Projected {
    pub(super) sources: Vec<Projection>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Projection {
    ServiceAccountToken(TokenSource),
    ConfigMap(KeysFrom),
    Secret(KeysFrom),
    DownwardAPI(Downward),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TokenSource {
    pub(super) path: String,
    pub(super) expiration_seconds: Option<u64>,
    pub(super) audience: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Downward {
    pub(super) items: Vec<DownwardItem>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DownwardItem {
    pub(super) path: String,
    pub(super) field_ref: FieldRef,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Service {
    #[serde(default)]
    selector: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) ports: Vec<ServicePort>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServicePort {
    pub(super) port: u16,
    pub(super) target_port: Option<IntOrName>,
}

impl Service {
    pub(super) fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        !self.selector.is_empty() && self.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    }
}

#[derive(Deserialize)]
struct List {
    items: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Kind {
    kind: String,
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    #[serde(default)]
    data: BTreeMap<String, String>,
    #[serde(default)]
    binary_data: BTreeMap<String, String>,
}

impl Objects {
    /// From what `kubectl get … -o json` prints.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let list: List = serde_json::from_str(text).context("kubectl get gave no list")?;
        let mut objects = Self::default();
        for item in list.items {
            let Kind { kind, metadata } = Kind::deserialize(&item).context("an object without kind and name")?;
            objects
                .add(&kind, metadata.name.clone(), item)
                .with_context(|| format!("cannot read {kind} {}", metadata.name))?;
        }
        Ok(objects)
    }

    fn add(&mut self, kind: &str, name: String, item: serde_json::Value) -> Result<()> {
        match kind {
            "Deployment" | "StatefulSet" => self.workloads.push(serde_json::from_value(item)?),
            "Service" => self.services.push(serde_json::from_value(item)?),
            "Secret" => {
                let data: Data = serde_json::from_value(item)?;
                self.secrets.insert(name, decoded(data.data)?);
            }
            "ConfigMap" => {
                let data: Data = serde_json::from_value(item)?;
                let mut values = decoded(data.binary_data)?;
                values.extend(data.data.into_iter().map(|(key, value)| (key, value.into_bytes())));
                self.config_maps.insert(name, values);
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn secret(&self, name: &str) -> Result<&BTreeMap<String, Vec<u8>>> {
        self.secrets.get(name).ok_or_else(|| anyhow!("there is no Secret {name:?}"))
    }

    pub(super) fn config_map(&self, name: &str) -> Result<&BTreeMap<String, Vec<u8>>> {
        self.config_maps.get(name).ok_or_else(|| anyhow!("there is no ConfigMap {name:?}"))
    }

    /// Whether a Service leads to pods with these labels.
    pub(super) fn is_addressed(&self, labels: &BTreeMap<String, String>) -> bool {
        self.services.iter().any(|service| service.spec.selects(labels))
    }
}

fn decoded(data: BTreeMap<String, String>) -> Result<BTreeMap<String, Vec<u8>>> {
    let decode = |(key, value): (String, String)| {
        let bytes = STANDARD.decode(&value).with_context(|| format!("the value of {key} is not base64"))?;
        Ok((key, bytes))
    };
    data.into_iter().map(decode).collect()
}
