//! Web apps as their clients see them.

mod app;
mod client;
mod errors;
mod registering;
mod serving;
mod tls;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::control_plane::{ControlPlane, ask, ca, token};

/// A control plane that serves web apps, and the token of the agent of cluster `prod`.
struct Stage {
    place: tempfile::TempDir,
    server: ControlPlane,
    secret: String,
    http: SocketAddr,
    https: SocketAddr,
}

impl Stage {
    async fn set(settings: &[(&str, &str)]) -> Self {
        let place = tempfile::tempdir().unwrap();
        let (server, http, https) = start(&place.path().join("data"), settings).await;
        let secret = token(&place.path().join("data"), &["create", "--agent", "--cluster", "prod"]).await;
        Self { place, server, secret, http, https }
    }

    fn data(&self) -> PathBuf {
        self.place.path().join("data")
    }

    /// Asks the API; a body is posted.
    async fn api(&self, path: &str, token: &str, body: &Value) -> (u16, Value) {
        let mut connection = self.server.connect(&ca(&self.data())).await.unwrap();
        let method = if body.is_null() { "GET" } else { "POST" };
        ask(&mut connection, method, &format!("/api/v1/gateway/routes{path}"), token, body).await
    }

    /// Makes these the agent's routes.
    async fn sync(&self, routes: &[Value]) -> Value {
        let (status, answer) = self.api("/sync", &self.secret, &json!({"ingresses": routes})).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }
}

async fn start(data: &Path, settings: &[(&str, &str)]) -> (ControlPlane, SocketAddr, SocketAddr) {
    let any = Path::new("127.0.0.1:0");
    let mut all = vec![("PIPEOPS_GATEWAY_HTTP_LISTEN", any), ("PIPEOPS_GATEWAY_HTTPS_LISTEN", any)];
    all.extend(settings.iter().map(|(name, value)| (*name, Path::new(*value))));
    let mut server = ControlPlane::start(data, &all).await;
    let mut address = async |over: &str| server.says(over).await["address"].as_str().unwrap().parse().unwrap();
    let (http, https) = (address("web apps are served over HTTP").await, address("served over HTTPS").await);
    (server, http, https)
}

/// What an Ingress with one rule asks for.
fn ingress(host: &str, tls: bool, paths: &[(&str, &str)]) -> Value {
    let path = |(path, service): &(&str, &str)| json!({"path": path, "path_type": "Prefix", "service_name": service, "service_port": 80});
    let paths: Vec<Value> = paths.iter().map(path).collect();
    json!({"namespace": "shop", "ingress_name": "web", "rules": [{"host": host, "tls": tls, "paths": paths}]})
}
