//! The control plane: a plain process outside the cluster.

use crate::{
    ports,
    process::{Health, Spec},
};
use anyhow::{Context, Result, bail};
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::process::Command;

const GRACE: Duration = Duration::from_secs(15);

/// How to start it and how to reach it.
#[derive(Clone, Debug)]
pub(crate) struct ControlPlane {
    pub(crate) spec: Spec,
    /// `https://ADDRESS:PORT`.
    pub(crate) url: String,
    /// Where it serves web apps of the cluster: over HTTP and HTTPS.
    pub(crate) web: [SocketAddr; 2],
    data: PathBuf,
}

impl ControlPlane {
    /// `address` is where the agent and users reach it.
    pub(crate) fn prepare(
        folder: &Path,
        binary: PathBuf,
        address: Ipv4Addr,
        extra: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let [port, health, http, https] = ports::free()?;
        let web = [http, https].map(|port| SocketAddr::from((address, port)));
        let data = folder.join("control-plane");
        std::fs::create_dir_all(&data).with_context(|| format!("cannot create {}", data.display()))?;
        let url = format!("https://{address}:{port}");
        let mut env: BTreeMap<String, String> = [
            ("PIPEOPS_DATA_DIR", data.display().to_string()),
            ("PIPEOPS_LISTEN", format!("{address}:{port}")),
            ("PIPEOPS_TLS_NAMES", address.to_string()),
            ("PIPEOPS_GATEWAY_HTTP_LISTEN", web[0].to_string()),
            ("PIPEOPS_GATEWAY_HTTPS_LISTEN", web[1].to_string()),
            // For tunnels, where `listen` is for the rest.
            ("PIPEOPS_GATEWAY_LISTEN", address.to_string()),
            ("PIPEOPS_SERVER_LISTEN", format!("127.0.0.1:{health}")),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into();
        env.extend(extra.clone());
        let spec = Spec {
            name: "control-plane".to_owned(),
            binary,
            args: vec!["serve".to_owned()],
            env,
            folder: folder.to_owned(),
            health: Health::Http(format!("http://127.0.0.1:{health}/ready")),
            grace: GRACE,
        };
        Ok(Self { spec, url, web, data })
    }

    /// `control-plane token create` with these arguments; gives the token.
    pub(crate) async fn create_token(&self, args: &[&str]) -> Result<String> {
        let token = self.run(&[&["token", "create"], args].concat()).await?.trim().to_owned();
        if token.is_empty() || token.contains(char::is_whitespace) {
            bail!("control-plane token create printed {} bytes that are no token", token.len());
        }
        Ok(token)
    }

    /// The program with these arguments and the running control plane's settings; gives its stdout.
    pub(crate) async fn run(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.spec.binary);
        command.args(args).env_clear().envs(&self.spec.env).stdin(Stdio::null()).kill_on_drop(true);
        let output = command.output().await.context("cannot run control-plane")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("control-plane {} ended with {}: {}", args.join(" "), output.status, said.trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The CA of the certificate it made for itself.
    pub(crate) fn ca_pem(&self) -> Result<String> {
        let path = self.data.join("tls/ca.crt");
        std::fs::read_to_string(&path).with_context(|| format!("cannot read the control plane's CA {}", path.display()))
    }
}
