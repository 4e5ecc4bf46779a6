//! A second cluster beside the lab's own: an agent of its own, whose executor talks to a [`Backend`](crate::backend::Backend) instead of
//! an API server. The programs are the lab's; so is the control plane.

use anyhow::Result;
use lab::{Health, Lab, Process, Spec};
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

pub const CLUSTER: &str = "side";
pub const AGENT: &str = "side-agent";
const READY_WITHIN: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub struct Side {
    pub nats: Process,
    pub gateway_link: Process,
    pub executor: Process,
    pub state_keeper: Process,
    /// A token for this cluster that no agent has used.
    pub token: String,
}

impl Side {
    /// `env` goes to both services.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn start(lab: &Lab, backend: SocketAddr, env: &BTreeMap<String, String>) -> Result<Self> {
        let [client, link, executor, keeper] = lab::free_ports()?;
        let folder = lab.folder().join(CLUSTER);
        std::fs::create_dir_all(&folder)?;
        let ca_file = folder.join("ca.pem");
        std::fs::write(&ca_file, lab.ca_pem()?)?;
        let for_agent = ["--agent", "--cluster", CLUSTER];
        let (own, token) = (lab.create_token(&for_agent).await?, lab.create_token(&for_agent).await?);
        let url = format!("nats://127.0.0.1:{client}");

        let nats = lab.add_process(Spec {
            name: "side-nats-server".to_owned(),
            binary: lab.parts().path("nats-server")?.to_owned(),
            args: ["--addr", "127.0.0.1", "--port", &client.to_string()].map(str::to_owned).to_vec(),
            env: BTreeMap::new(),
            folder: folder.clone(),
            health: Health::Tcp((Ipv4Addr::LOCALHOST, client).into()),
            grace: Duration::from_secs(5),
        });
        nats.start().await?;
        nats.wait_ready(READY_WITHIN).await?;

        let service = |name: &str, port: u16, own: &[(&str, String)]| -> Result<Process> {
            let mut all = env.clone();
            all.insert("PIPEOPS_SERVER_LISTEN".to_owned(), format!("127.0.0.1:{port}"));
            all.insert("PIPEOPS_BUS_URL".to_owned(), url.clone());
            all.extend(own.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
            Ok(lab.add_process(Spec {
                name: format!("side-{name}"),
                binary: lab.process(name)?.spec().binary.clone(),
                args: Vec::new(),
                env: all,
                folder: folder.clone(),
                health: Health::Http(format!("http://127.0.0.1:{port}/ready")),
                grace: Duration::from_secs(5),
            }))
        };
        let side = Self {
            nats,
            gateway_link: service(
                "gateway-link",
                link,
                &[
                    ("PIPEOPS_API_URL", lab.url()?.to_owned()),
                    ("PIPEOPS_TOKEN", own),
                    ("PIPEOPS_CLUSTER_NAME", CLUSTER.to_owned()),
                    ("PIPEOPS_TLS_CA_FILE", ca_file.display().to_string()),
                ],
            )?,
            executor: service(
                "proxy-executor",
                executor,
                &[("PIPEOPS_KUBERNETES_API_URL", format!("http://{backend}"))],
            )?,
            state_keeper: service(
                "state-keeper",
                keeper,
                &[
                    ("PIPEOPS_STATE_FILE", folder.join("state").display().to_string()),
                    ("PIPEOPS_STATE_KEY", "5a".repeat(32)),
                    ("PIPEOPS_AGENT_ID", AGENT.to_owned()),
                ],
            )?,
            token,
        };
        side.state_keeper.start().await?;
        side.executor.start().await?;
        side.gateway_link.start().await?;
        for process in side.processes() {
            process.wait_ready(READY_WITHIN).await?;
        }
        Ok(side)
    }

    #[must_use]
    pub fn processes(&self) -> [&Process; 4] {
        [&self.nats, &self.gateway_link, &self.executor, &self.state_keeper]
    }
}
