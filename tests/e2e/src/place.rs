//! A namespace of a cluster with one service's ServiceAccount and rights in it, as the chart renders them.

use crate::chart::{Chart, Helm};
use anyhow::{Result, ensure};
use lab::{Lab, until};
use serde_json::Value;
use std::{path::PathBuf, time::Duration};

const NAMESPACE_WITHIN: Duration = Duration::from_secs(20);
const RIGHTS: [&str; 5] = ["ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"];

/// What a service that runs as a process of its own needs of the cluster.
#[derive(Debug)]
pub struct Place {
    pub namespace: String,
    /// The ServiceAccount.
    pub account: String,
    pub token_file: PathBuf,
    pub ca_file: PathBuf,
}

impl Place {
    /// Makes the namespace, with what `service` has when the chart is installed with these values.
    ///
    /// # Errors
    /// When the chart does not render, or the API server refuses something.
    pub async fn prepare(lab: &Lab, service: &str, namespace: &str, values: &[&str]) -> Result<Self> {
        lab.admin().stdout(&["create", "namespace", namespace]).await?;
        let mut account = String::new();
        for object in Helm::find().await?.in_namespace(namespace).template(Chart::Agent, values).await? {
            let (kind, name) = (object.kind(), object.name());
            if !name.ends_with(&format!("-{service}")) || !RIGHTS.contains(&kind) {
                continue;
            }
            if kind == "ServiceAccount" {
                name.clone_into(&mut account);
            }
            lab.admin().stdout_with_input(&["apply", "-n", namespace, "-f", "-"], &object.0.to_string()).await?;
        }
        ensure!(!account.is_empty(), "the chart renders no ServiceAccount of {service}");
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
    ///
    /// # Errors
    /// When it fails.
    pub async fn admin(&self, lab: &Lab, args: &[&str]) -> Result<String> {
        lab.admin().stdout(&[args, &["-n", &self.namespace]].concat()).await
    }

    /// Creates an object in this namespace.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn create(&self, lab: &Lab, object: &str) -> Result<()> {
        lab.admin().stdout_with_input(&["create", "-n", &self.namespace, "-f", "-"], object).await.map(drop)
    }

    /// An object of this namespace; none when there is none.
    ///
    /// # Errors
    /// When kubectl fails.
    pub async fn object(&self, lab: &Lab, name: &str) -> Result<Option<Value>> {
        let text = self.admin(lab, &["get", name, "-o", "json", "--ignore-not-found"]).await?;
        Ok(if text.trim().is_empty() { None } else { Some(serde_json::from_str(&text)?) })
    }
}
