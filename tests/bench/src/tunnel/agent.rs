//! The agent, as a process on a machine that has no cluster's DNS: the names of the backends' Services are in its /etc/hosts.

use super::subjects::{Backends, Subject};
use crate::{
    client::{Route, Target},
    link::way::Way,
    peers::way,
    usage::Named,
    ways,
};
use anyhow::{Context, Result};
use lab::{Lab, Process};
use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

const AGENT: &str = "gateway-link";
const URL: &str = "PIPEOPS_API_URL";
const READY_WITHIN: Duration = Duration::from_secs(30);
const NAMESPACE: &str = "bench";
/// In mount and user namespaces of its own, so that the machine's file stays what it is.
const ISOLATED: [&str; 6] = ["--map-root-user", "--mount", "--propagation", "private", "sh", "-c"];
const WITH_HOSTS: &str = r#"mount --bind "$0" /etc/hosts && exec "$@""#;

/// Ports of the control plane that lead to the backends.
pub(super) struct Ports {
    bulk: SocketAddr,
    http: SocketAddr,
    datagrams: SocketAddr,
}

/// An agent in the place of the lab's.
pub(super) struct Agent {
    process: Arc<Process>,
    _way: Option<Way>,
}

impl Ports {
    /// By `control-plane tunnel create`.
    pub(super) async fn create(lab: &Lab, backends: &Backends) -> Result<Self> {
        let host = ways::address(lab.url()?)?.ip();
        let create = async |protocol: &str, service: &str, backend: SocketAddr| {
            let target = format!("{NAMESPACE}/{service}:{}", backend.port());
            let said = lab.control_plane(&["tunnel", "create", "--cluster", lab.cluster(), protocol, &target]).await?;
            let port = said.split(" port ").nth(1).and_then(|rest| rest.split_whitespace().next());
            let port = port.and_then(|port| port.parse().ok()).with_context(|| format!("no port: {said}"))?;
            anyhow::Ok(SocketAddr::new(host, port))
        };
        Ok(Self {
            bulk: create("--tcp", "bulk", backends.bulk()).await?,
            http: create("--tcp", "http", backends.http()).await?,
            datagrams: create("--udp", "datagrams", backends.datagrams()).await?,
        })
    }

    pub(super) fn subject(&self, lab: &Lab, agent: &Agent) -> Result<Subject> {
        Ok(Subject {
            name: "pipeops",
            bulk: self.bulk,
            http: Target::plain("pipeops", Route::Tcp(self.http)),
            datagrams: self.datagrams,
            hops: vec![Named::new(lab.process("control-plane")?), agent.named()],
            _ways: Vec::new(),
        })
    }
}

impl Agent {
    /// Ends the lab's agent and starts one that reaches the control plane with that delay.
    pub(super) async fn start(lab: &Lab, delay: Duration) -> Result<Self> {
        let hosts = lab.folder().join("hosts");
        // The agent asks for full names, with the dot at their end.
        let names = ["bulk", "http", "datagrams"].map(|name| format!("{name}.{NAMESPACE}.svc.cluster.local."));
        std::fs::write(&hosts, format!("127.0.0.1 {}\n", names.join(" ")))
            .with_context(|| format!("cannot write {}", hosts.display()))?;
        let of_lab = lab.process(AGENT)?;
        of_lab.stop().await?;
        let mut spec = of_lab.spec().clone();
        spec.name = format!("{AGENT}-{}", delay.as_millis());
        let (address, way) = way(ways::address(lab.url()?)?, delay).await?;
        spec.env.insert(URL.to_owned(), format!("https://{address}"));
        let program = [hosts.display().to_string(), spec.binary.display().to_string()];
        let isolated = ISOLATED.map(str::to_owned).into_iter().chain([WITH_HOSTS.to_owned()]);
        spec.args = isolated.chain(program).chain(spec.args).collect();
        spec.binary = PathBuf::from("unshare");
        let process = Arc::new(lab.add_process(spec));
        process.start().await?;
        process.wait_ready(READY_WITHIN).await?;
        Ok(Self { process, _way: way })
    }

    /// Under the lab's agent's name: it is the same program.
    fn named(&self) -> Named {
        Named { name: AGENT.to_owned(), process: Arc::clone(&self.process) }
    }

    pub(super) async fn stop(self) -> Result<()> {
        // Nothing is to be kept, and a session of UDP would be waited for.
        self.process.kill().await
    }
}
