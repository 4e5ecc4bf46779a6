//! A second cluster beside the lab's own: an agent of its own, whose executor talks to a [`Backend`](crate::backend::Backend) instead of
//! an API server. The programs are the lab's; so is the control plane.

use anyhow::{Context, Result};
use bus::{
    Bus, Serving,
    state::{GetIdentity, Identity, SaveRegistration},
};
use lab::{Health, Lab, Process, Spec, until};
use protocol::AgentId;
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
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
    /// The agent's own token at the control plane.
    pub token: String,
    _keeper: (Bus, Serving, Serving),
}

impl Side {
    /// `env` goes to both services.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn start(lab: &Lab, backend: SocketAddr, env: &BTreeMap<String, String>) -> Result<Self> {
        let [client, link, executor] = lab::free_ports()?;
        let folder = lab.folder().join(CLUSTER);
        std::fs::create_dir_all(&folder)?;
        let ca_file = folder.join("ca.pem");
        std::fs::write(&ca_file, lab.ca_pem()?)?;
        let token = lab.create_token(&["--agent", "--cluster", CLUSTER]).await?;
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
        let keeper = keeper(&url).await?;

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
                    ("PIPEOPS_TOKEN", token.clone()),
                    ("PIPEOPS_CLUSTER_NAME", CLUSTER.to_owned()),
                    ("PIPEOPS_TLS_CA_FILE", ca_file.display().to_string()),
                ],
            )?,
            executor: service(
                "proxy-executor",
                executor,
                &[("PIPEOPS_KUBERNETES_API_URL", format!("http://{backend}"))],
            )?,
            token,
            _keeper: keeper,
        };
        side.executor.start().await?;
        side.gateway_link.start().await?;
        for process in side.processes() {
            process.wait_ready(READY_WITHIN).await?;
        }
        Ok(side)
    }

    #[must_use]
    pub fn processes(&self) -> [&Process; 3] {
        [&self.nats, &self.gateway_link, &self.executor]
    }
}

/// What state-keeper does, without a cluster to keep the state in.
async fn keeper(url: &str) -> Result<(Bus, Serving, Serving)> {
    let options = bus::Options { url: url.to_owned(), ..bus::Options::default() };
    let bus = Bus::connect(&options, bus::Service::StateKeeper).await?;
    let mut status = bus.status();
    until("the test's own connection to the side bus", READY_WITHIN, || {
        let status = status.borrow_and_update().clone();
        std::future::ready(if status == bus::Status::Connected { Ok(()) } else { Err(format!("{status:?}")) })
    })
    .await?;
    let fresh = Identity { agent_id: AgentId::new(AGENT.to_owned())?, cluster_id: None, gateway_ws_url: None };
    let identity = Arc::new(Mutex::new(fresh));
    let asked = Arc::clone(&identity);
    let get = bus
        .serve(move |_: GetIdentity| {
            let identity = asked.lock().unwrap_or_else(PoisonError::into_inner).clone();
            async move { Ok(identity) }
        })
        .await
        .context("cannot serve the identity")?;
    let save = bus
        .serve(move |registration: SaveRegistration| {
            let mut identity = identity.lock().unwrap_or_else(PoisonError::into_inner);
            identity.cluster_id = Some(registration.cluster_id);
            identity.gateway_ws_url = registration.gateway_ws_url;
            let saved = identity.clone();
            async move { Ok(saved) }
        })
        .await
        .context("cannot serve the registration")?;
    Ok((bus, get, save))
}
