//! A state-keeper with the rights that the chart gives it.

use anyhow::{Result, ensure};
use bus::{Bus, LocalBus, RequestError, Service};
use e2e::place::Place;
use lab::{Lab, until};
use runtime::{Context, Health};
use std::time::Duration;
use tokio::task::JoinHandle;

pub const MAP: &str = "configmaps/pipeops-agent-state";
pub const SECRET: &str = "secrets/pipeops-agent-secrets";
pub const LEASE: &str = "leases.coordination.k8s.io/pipeops-agent-route-syncer";

const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// A state-keeper in this process, on a bus of its own.
pub struct Keeper {
    /// gateway-link's end of the bus.
    bus: Bus,
    pub health: Health,
    context: Context,
    task: JoinHandle<Result<()>>,
}

impl Keeper {
    pub fn start(place: &Place, lab: &Lab) -> Self {
        runtime::tls::install_provider();
        let mut options = state_keeper::Options::default();
        options.kubernetes.server.api_url = Some(lab.api_url().to_owned());
        options.kubernetes.server.ca_file.clone_from(&place.ca_file);
        options.kubernetes.server.token_file.clone_from(&place.token_file);
        options.kubernetes.check_interval = runtime::Duration::from_millis(500);
        options.state.namespace = Some(place.namespace.clone());
        let local = LocalBus::new();
        let context = Context::detached("state-keeper");
        let task = tokio::spawn(state_keeper::run_on(options, context.clone(), local.bus(Service::StateKeeper)));
        Self { bus: local.bus(Service::GatewayLink), health: context.health.clone(), context, task }
    }

    /// Asks as gateway-link does, once it is there to be asked.
    pub async fn ask<R: bus::Request>(&self, request: &R) -> Result<R::Reply, RequestError<R::Error>>
    where
        R::Error: Send,
    {
        let answer = until("state-keeper to answer on the bus", ANSWER_WITHIN, || async {
            match self.bus.request(request).await {
                Err(RequestError::NoResponder) => Err("nobody serves the subject"),
                answer => Ok(answer),
            }
        });
        answer.await.unwrap_or(Err(RequestError::NoResponder))
    }

    pub async fn wait_ready(&self, limit: Duration) -> Result<()> {
        until("state-keeper to be ready", limit, || async {
            ensure!(self.health.is_ready(), "{:?}", self.health);
            Ok(())
        })
        .await
    }

    /// Stops it as SIGTERM does, and gives how it ended.
    pub async fn stop(self) -> Result<()> {
        self.context.shutdown.cancel();
        self.task.await?
    }
}
