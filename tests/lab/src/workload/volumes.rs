//! A pod's volumes as folders of this machine.

use super::{
    mapping::Mapping,
    objects::{
        Container, Downward, FieldRef, KeyToPath, KeysFrom, Objects, PodSpec, Projection, TokenSource, VolumeSource,
    },
};
use crate::{folders::write_atomically, tokens::Token};
use anyhow::{Context, Result, anyhow, bail};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The kubelet's default for `expirationSeconds`.
const TOKEN_SECONDS: u64 = 3600;

/// What the downward API knows of a pod, and where its files go.
#[derive(Debug)]
pub(super) struct Pod<'a> {
    pub(super) name: &'a str,
    pub(super) namespace: &'a str,
    pub(super) service_account: &'a str,
    pub(super) labels: &'a BTreeMap<String, String>,
    pub(super) folder: &'a Path,
}

impl Pod<'_> {
    /// A field as the downward API names it.
    pub(super) fn field(&self, path: &str) -> Result<String> {
        let value = match path {
            "metadata.name" => self.name,
            "metadata.namespace" => self.namespace,
            "spec.serviceAccountName" => self.service_account,
            "status.podIP" | "status.hostIP" => "127.0.0.1",
            "spec.nodeName" => "lab",
            "metadata.uid" => "00000000-0000-0000-0000-000000000000",
            _ => {
                let label = path.strip_prefix("metadata.labels['").and_then(|rest| rest.strip_suffix("']"));
                label
                    .and_then(|label| self.labels.get(label))
                    .ok_or_else(|| anyhow!("the lab knows no field {path}"))?
            }
        };
        Ok(value.to_owned())
    }
}

/// One mount: where the container sees it, and where it is.
#[derive(Debug)]
pub(super) struct Mount<'a> {
    pub(super) path: &'a str,
    pub(super) local: PathBuf,
    pub(super) sub_path: Option<&'a str>,
    /// `None` for the ServiceAccount volume that the API server adds to a pod that has not said no.
    pub(super) source: Option<&'a VolumeSource>,
}

/// The container's mounts.
pub(super) fn mounts<'a>(pod: &Pod<'_>, spec: &'a PodSpec, container: &'a Container) -> Vec<Mount<'a>> {
    let mut mounts = Vec::new();
    for mount in &container.volume_mounts {
        let source = spec.volumes.iter().find(|volume| volume.name == mount.name).map(|volume| &volume.source);
        let folder = pod.folder.join("volumes").join(&mount.name);
        let sub_path = mount.sub_path.as_deref().filter(|path| !path.is_empty());
        let local = sub_path.map_or_else(|| folder.clone(), |path| folder.join(path));
        mounts.push(Mount { path: mount.mount_path.trim_end_matches('/'), local, sub_path, source });
    }
    let covered = mounts.iter().any(|mount| mount.path == SERVICE_ACCOUNT);
    if spec.automount_service_account_token.unwrap_or(true) && !covered {
        let local = pod.folder.join("volumes/service-account");
        mounts.push(Mount { path: SERVICE_ACCOUNT, local, sub_path: None, source: None });
    }
    mounts
}

/// Writes the volumes' files and gives those that are tokens, which are not written yet.
pub(super) fn write(pod: &Pod<'_>, mounts: &[Mount<'_>], objects: &Objects, mapping: &Mapping) -> Result<Vec<Token>> {
    fs::create_dir_all(pod.folder).with_context(|| format!("cannot create {}", pod.folder.display()))?;
    let mut tokens = Vec::new();
    for mount in mounts {
        let folder = match mount.sub_path {
            None => mount.local.clone(),
            Some(sub) => {
                mount.local.ancestors().nth(Path::new(sub).components().count()).unwrap_or(&mount.local).to_owned()
            }
        };
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let volume = Volume { pod, folder, objects, mapping };
        volume.fill(mount.source, &mut tokens).with_context(|| format!("cannot make the volume at {}", mount.path))?;
    }
    Ok(tokens)
}

struct Volume<'a> {
    pod: &'a Pod<'a>,
    folder: PathBuf,
    objects: &'a Objects,
    mapping: &'a Mapping,
}

impl Volume<'_> {
    fn fill(&self, source: Option<&VolumeSource>, tokens: &mut Vec<Token>) -> Result<()> {
        match source {
            Some(VolumeSource::EmptyDir(_)) => Ok(()),
            Some(VolumeSource::Secret(secret)) => {
                self.keys(self.objects.secret(&secret.secret_name), &secret.items, secret.optional)
            }
            Some(VolumeSource::ConfigMap(map)) => {
                self.keys(self.objects.config_map(&map.name), &map.items, map.optional)
            }
            Some(VolumeSource::DownwardAPI(downward)) => self.downward(downward),
            Some(VolumeSource::Projected(projected)) => {
                projected.sources.iter().try_for_each(|source| self.projection(source, tokens))
            }
            None => self.service_account(tokens),
        }
    }

    fn projection(&self, source: &Projection, tokens: &mut Vec<Token>) -> Result<()> {
        match source {
            Projection::ConfigMap(map) => self.keys(self.objects.config_map(&map.name), &map.items, map.optional),
            Projection::Secret(secret) => self.keys(self.objects.secret(&secret.name), &secret.items, secret.optional),
            Projection::DownwardAPI(downward) => self.downward(downward),
            Projection::ServiceAccountToken(token) => {
                tokens.push(Token {
                    service_account: self.pod.service_account.to_owned(),
                    namespace: self.pod.namespace.to_owned(),
                    audience: token.audience.clone().filter(|audience| !audience.is_empty()),
                    lifetime: Duration::from_secs(token.expiration_seconds.unwrap_or(TOKEN_SECONDS)),
                    file: self.folder.join(relative(&token.path)?),
                });
                Ok(())
            }
        }
    }

    fn service_account(&self, tokens: &mut Vec<Token>) -> Result<()> {
        let token = TokenSource { path: "token".to_owned(), expiration_seconds: None, audience: None };
        let ca = KeysFrom { name: "kube-root-ca.crt".to_owned(), items: Vec::new(), optional: false };
        self.projection(&Projection::ServiceAccountToken(token), tokens)?;
        self.projection(&Projection::ConfigMap(ca), tokens)?;
        self.file("namespace", &self.pod.field("metadata.namespace")?.into_bytes())
    }

    fn keys(&self, data: Result<&BTreeMap<String, Vec<u8>>>, items: &[KeyToPath], optional: bool) -> Result<()> {
        let data = match data {
            Err(_) if optional => return Ok(()),
            other => other?,
        };
        if items.is_empty() {
            return data.iter().try_for_each(|(key, value)| self.file(key, value));
        }
        for item in items {
            match data.get(&item.key) {
                Some(value) => self.file(&item.path, value)?,
                None if optional => {}
                None => bail!("there is no key {:?}", item.key),
            }
        }
        Ok(())
    }

    fn downward(&self, downward: &Downward) -> Result<()> {
        downward.items.iter().try_for_each(|item| {
            let FieldRef { field_path } = &item.field_ref;
            self.file(&item.path, self.pod.field(field_path)?.as_bytes())
        })
    }

    /// Text may name files of the same container, as a configuration that includes another does.
    fn file(&self, path: &str, content: &[u8]) -> Result<()> {
        let path = self.folder.join(relative(path)?);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
        }
        match std::str::from_utf8(content) {
            Ok(text) => write_atomically(&path, self.mapping.apply(text).as_bytes(), 0o600),
            Err(_) => write_atomically(&path, content, 0o600),
        }
    }
}

fn relative(path: &str) -> Result<&Path> {
    let path = Path::new(path);
    let plain = path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    if plain { Ok(path) } else { bail!("{} leads out of its volume", path.display()) }
}
