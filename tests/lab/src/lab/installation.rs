//! What a lab puts into a cluster that is the user's, and how it comes out again.

use super::{Place, folder::STATE};
use crate::{run::Tool, state::State};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{path::Path, time::Duration};

/// The chart sets it on everything it makes.
const LABEL: &str = "app.kubernetes.io/instance";
/// A namespace takes some seconds; one that is held by a finalizer of the user's never goes.
const NAMESPACE_GONE_WITHIN: &str = "--timeout=60s";

/// Written down before the first of it is in the cluster, so that whoever comes after a crash can take it out.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Installation {
    /// URL of the API server.
    server: String,
    kubectl: Tool,
    helm: Tool,
    namespace: String,
    release: String,
    /// Whether the namespace was not there before.
    owns_namespace: bool,
}

impl Installation {
    /// Looks at the cluster and changes nothing.
    pub(super) async fn plan(place: Place, server: &str, kubectl: Tool, helm: Tool) -> Result<Self> {
        let Place { namespace, release } = place;
        let there = kubectl.stdout(&["get", "namespace", namespace, "--ignore-not-found", "-o", "name"]).await?;
        Ok(Self {
            server: server.to_owned(),
            kubectl,
            helm,
            namespace: namespace.to_owned(),
            release: release.to_owned(),
            owns_namespace: there.trim().is_empty(),
        })
    }

    /// Takes everything out. What is not there any more is as good; each is tried, whatever becomes of the others.
    async fn remove(&self, run: &Path) -> Result<()> {
        let Self { server, kubectl, helm, namespace, release, .. } = self;
        let mut failed = Vec::new();
        let mut note = |done: Result<String>| failed.extend(done.err().map(|error| format!("{error:#}")));
        note(helm.stdout(&["uninstall", release, "-n", namespace, "--ignore-not-found"]).await);
        // Also those of the release: with the namespace, helm's record of them goes.
        let label = format!("--selector={LABEL}={release}");
        note(kubectl.stdout(&["delete", "clusterrolebindings,clusterroles", &label]).await);
        if self.owns_namespace {
            let delete = ["delete", "namespace", namespace, "--ignore-not-found", NAMESPACE_GONE_WITHIN];
            note(kubectl.stdout(&delete).await);
        }
        ensure!(
            failed.is_empty(),
            "cannot take the lab out of the cluster at {server}: {}; `cargo lab down` tries again, and if that cluster is gone, \
             delete {}",
            failed.join("; "),
            run.join(STATE).display()
        );
        Ok(())
    }
}

impl State {
    /// Removes what the run in this folder has made besides its processes, which have all ended: what is left of a node, and what is
    /// in a cluster of the user's. What does not go at once has until `limit`.
    pub(super) async fn undo(&self, run: &Path, limit: Duration) -> Result<()> {
        if let Some(remains) = &self.node {
            remains.remove(limit).await.context("something of the node is left")?;
        }
        match &self.installation {
            Some(installation) => installation.remove(run).await,
            None => Ok(()),
        }
    }
}

/// Makes a group an admin.
pub(super) async fn bind_admins(kubectl: &Tool, place: Place, group: &str) -> Result<()> {
    kubectl
        .stdout_with_input(&["apply", "-f", "-"], &admins(place, group).to_string())
        .await
        .context("cannot make the lab's user an admin")?;
    Ok(())
}

fn admins(place: Place, group: &str) -> Value {
    let api = "rbac.authorization.k8s.io";
    json!({
        "apiVersion": format!("{api}/v1"),
        "kind": "ClusterRoleBinding",
        "metadata": { "name": format!("{}-admins", place.release), "labels": { LABEL: place.release } },
        "roleRef": { "apiGroup": api, "kind": "ClusterRole", "name": "cluster-admin" },
        "subjects": [{ "apiGroup": api, "kind": "Group", "name": group }],
    })
}
