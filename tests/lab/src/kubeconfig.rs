//! kubeconfig files: written for the lab's users, read for an existing cluster.

use crate::{folders::write_atomically, pki::Pair, run::Tool};
use anyhow::{Context, Result, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// How a user proves who they are.
pub(crate) enum Login<'a> {
    Certificate(&'a Pair),
    Token(&'a str),
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct File<'a> {
    #[serde(rename = "apiVersion")]
    api_version: &'a str,
    kind: &'a str,
    current_context: &'a str,
    clusters: [Named<'a, ClusterField>; 1],
    users: [Named<'a, UserField>; 1],
    contexts: [Named<'a, ContextField<'a>>; 1],
}

#[derive(Serialize)]
struct Named<'a, T> {
    name: &'a str,
    #[serde(flatten)]
    value: T,
}

#[derive(Serialize)]
struct ClusterField {
    cluster: Cluster,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority_data: Option<String>,
}

#[derive(Serialize)]
struct UserField {
    user: User,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    #[serde(skip_serializing_if = "Option::is_none")]
    client_certificate_data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_key_data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

#[derive(Serialize)]
struct ContextField<'a> {
    context: Context_<'a>,
}

#[derive(Serialize)]
struct Context_<'a> {
    cluster: &'a str,
    user: &'a str,
}

/// Writes a kubeconfig with one cluster and one user, certificates inside. (JSON is YAML.)
pub(crate) fn write(path: &Path, server: &str, ca_pem: &str, user: &str, login: &Login<'_>) -> Result<()> {
    let encode = |pem: &str| STANDARD.encode(pem);
    let login = match login {
        Login::Certificate(pair) => User {
            client_certificate_data: Some(encode(&pair.cert_pem)),
            client_key_data: Some(encode(&pair.key_pem)),
            token: None,
        },
        Login::Token(token) => {
            User { client_certificate_data: None, client_key_data: None, token: Some((*token).to_owned()) }
        }
    };
    let cluster = Cluster { server: server.to_owned(), certificate_authority_data: Some(encode(ca_pem)) };
    let file = File {
        api_version: "v1",
        kind: "Config",
        current_context: "lab",
        clusters: [Named { name: "lab", value: ClusterField { cluster } }],
        users: [Named { name: user, value: UserField { user: login } }],
        contexts: [Named { name: "lab", value: ContextField { context: Context_ { cluster: "lab", user } } }],
    };
    write_atomically(path, &serde_json::to_vec_pretty(&file)?, 0o600)
}

/// The API server of an existing kubeconfig.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// Writes what is needed of a kubeconfig's current context to `path`, and gives the API server that it names.
pub(crate) async fn copy_current(kubectl: &Tool, path: &Path) -> Result<Server> {
    #[derive(Deserialize)]
    struct View {
        clusters: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        cluster: Cluster,
    }
    let view = kubectl.stdout(&["config", "view", "--raw", "--minify", "--flatten", "-o", "json"]).await?;
    write_atomically(path, view.as_bytes(), 0o600)?;
    let view: View = serde_json::from_str(&view).context("kubectl config view gave no kubeconfig")?;
    let url =
        view.clusters.into_iter().next().context("the kubeconfig's current context names no cluster")?.cluster.server;
    let parsed = reqwest::Url::parse(&url).with_context(|| format!("the kubeconfig's server {url:?} is no URL"))?;
    let (Some(host), Some(port), "/") = (parsed.host_str(), parsed.port_or_known_default(), parsed.path()) else {
        bail!("the agent addresses an API server by host and port, and {url} is more than that");
    };
    Ok(Server { host: host.to_owned(), port, url })
}
