//! The ways to the API server that are compared.

use super::bodies::BackendExecutor;
use crate::{
    client::{Connection, Route, Target},
    peers::{self, Ground, Peer},
    usage::Named,
    ways::{self, address},
};
use anyhow::{Context, Result};
use lab::{Certificates, Lab, until};
use std::{net::SocketAddr, time::Duration};

const ANSWERS_WITHIN: Duration = Duration::from_secs(30);
/// The processes that a request through the agent passes, from the client on.
const AGENT: [&str; 4] = ["control-plane", "gateway-link", "nats-server", "proxy-executor"];

/// A way to the API server.
pub(super) struct Subject {
    pub(super) name: &'static str,
    /// To the API server.
    pub(super) api: Target,
    /// To the backend for bodies.
    pub(super) backend: Target,
    /// The processes between the client and the server; none on the direct way.
    pub(super) hops: Vec<Named>,
}

/// All of them.
pub(super) struct Subjects {
    all: Vec<Subject>,
    backend: SocketAddr,
    executor: Option<BackendExecutor>,
}

impl Subjects {
    /// Starts the peers.
    pub(super) async fn start(lab: &Lab, backend: SocketAddr) -> Result<Self> {
        let api = address(lab.api_url())?;
        let direct = ways::direct(lab).await?;
        let straight = |name, [to_api, to_backend]: [Route; 2], hops| Subject {
            name,
            api: Target { name, route: to_api, ..direct.clone() },
            backend: Target { name, route: to_backend, tls: None, prefix: String::new(), token: None },
            hops,
        };
        let certificates = Certificates::create(&lab.folder().join("peers"))?;
        let ports = [api, backend];
        let ground = Ground { lab, certificates: &certificates, ports: &ports, datagrams: None, delay: Duration::ZERO };
        let peers = [peers::konnectivity(ground).await?, peers::chisel(ground).await?];
        let mut all = vec![straight("direct", ports.map(Route::Tcp), Vec::new()), through_agent(lab)?];
        for Peer { name, hops, routes, .. } in peers {
            let routes = routes.try_into().ok().context("a peer carries another number of ports")?;
            all.push(straight(name, routes, hops));
        }
        Ok(Self { all, backend, executor: None })
    }

    pub(super) fn all(&self) -> &[Subject] {
        &self.all
    }

    /// The direct way.
    pub(super) fn direct(&self) -> Result<&Subject> {
        self.all.first().context("there is no direct way")
    }

    /// Puts an executor that works for the backend in the place of the lab's.
    pub(super) async fn send_bodies_to_backend(&mut self, lab: &Lab) -> Result<()> {
        if self.executor.is_none() {
            let executor = BackendExecutor::start(lab, self.backend).await?;
            self.replace_executor(&executor.named());
            self.executor = Some(executor);
        }
        self.answers("/readyz", |subject| &subject.backend).await
    }

    /// Puts the lab's executor back.
    pub(super) async fn send_bodies_to_api_server(&mut self) -> Result<()> {
        if let Some(executor) = self.executor.take() {
            self.replace_executor(&executor.stop().await?);
        }
        self.answers("/readyz", |subject| &subject.api).await
    }

    fn replace_executor(&mut self, executor: &Named) {
        for hop in self.all.iter_mut().flat_map(|subject| &mut subject.hops) {
            if hop.name == executor.name {
                *hop = executor.clone();
            }
        }
    }

    async fn answers(&self, path: &str, target: impl Fn(&Subject) -> &Target) -> Result<()> {
        for subject in &self.all {
            answers(target(subject), path).await?;
        }
        Ok(())
    }
}

impl Subject {
    /// Starts its processes anew, so that what they hold is what the next load needs.
    pub(super) async fn restart(&self) -> Result<()> {
        for hop in &self.hops {
            hop.process.restart().await?;
        }
        peers::ready(self.hops.iter().map(|hop| hop.process.as_ref())).await?;
        answers(&self.api, "/readyz").await
    }
}

/// Waits until a GET is answered.
async fn answers(target: &Target, path: &str) -> Result<()> {
    until(&format!("{} to answer {path}", target.name), ANSWERS_WITHIN, || async {
        Connection::open(target).await?.fetch(&target.get(path)).await
    })
    .await?;
    Ok(())
}

fn through_agent(lab: &Lab) -> Result<Subject> {
    let target = ways::through_agent(lab)?;
    let hops = AGENT.map(|name| lab.process(name).map(Named::new));
    Ok(Subject {
        name: target.name,
        backend: target.clone(),
        api: target,
        hops: hops.into_iter().collect::<Result<_>>()?,
    })
}
