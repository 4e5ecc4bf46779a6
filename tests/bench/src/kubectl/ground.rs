//! Pods to open sessions to, and what lies on the way to them.

use super::{Row, Scale};
use crate::{
    client::{Connection, Target},
    objects::{configmap, create, pod},
    usage::Costs,
    watches::Watched,
    ways,
};
use anyhow::{Result, ensure};
use lab::{Containers, Lab, Process, Tool};
use std::{sync::Arc, time::Duration};

pub(super) const NAMESPACE: &str = "bench";
/// Has a shell and serves [`ECHO`] and [`ZEROS`].
pub(super) const POD: &str = "server";
/// Gives back what it gets.
pub(super) const ECHO: u16 = 7000;
/// Gives zeros for as long as somebody takes them.
pub(super) const ZEROS: u16 = 7001;
const LOGGER: &str = "logger";
/// All that this pod will ever say.
pub(super) const LOG: &str = "/api/v1/namespaces/bench/pods/logger/log";
/// What our sessions pass, from the client on.
pub(super) const HOPS: [&str; 4] = ["control-plane", "gateway-link", "nats", "proxy-executor"];
const AGENT: &str = "pipeops-system";
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Kubernetes puts 45 bytes before each in the file, whose size it limits.
const LINE: usize = 1000;

pub(super) struct Ground<'a> {
    lab: &'a Lab,
    direct: Target,
    agent: Target,
    pub(super) watched: Watched,
}

/// A process on the way.
pub(super) enum Hop {
    Process(Arc<Process>),
    Pods(Containers),
}

impl Costs for Hop {
    fn rss(&self) -> Result<u64> {
        match self {
            Self::Process(process) => process.rss(),
            Self::Pods(containers) => containers.rss(),
        }
    }

    fn cpu_time(&self) -> Result<Duration> {
        match self {
            Self::Process(process) => process.cpu_time(),
            Self::Pods(containers) => containers.cpu_time(),
        }
    }
}

impl<'a> Ground<'a> {
    /// Makes what the rows need.
    pub(super) async fn prepare(lab: &'a Lab, scale: Scale, rows: &[Row]) -> Result<Self> {
        let (direct, agent) = (ways::direct(lab).await?, ways::through_agent(lab)?);
        lab.create_namespace(NAMESPACE).await?;
        let serve = format!(
            "socat TCP-LISTEN:{ECHO},fork,reuseaddr,backlog=256 EXEC:cat & \
             exec socat -b 65536 TCP-LISTEN:{ZEROS},fork,reuseaddr OPEN:/dev/zero"
        );
        lab.run_pod(NAMESPACE, POD, &serve).await?;
        let log = format!("yes {} | head -n {}; exec sleep infinity", "x".repeat(LINE - 1), scale.log / LINE as u64);
        lab.run_pod(NAMESPACE, LOGGER, &log).await?;
        if rows.contains(&Row::Logs) {
            lab::until("the whole log", READY_WITHIN, || async {
                let bytes = Connection::open(&direct).await?.fetch(&direct.get(LOG)).await?;
                ensure!(bytes == scale.log, "{bytes} of {} bytes", scale.log);
                Ok(())
            })
            .await?;
        }
        let collection = format!("/api/v1/namespaces/{NAMESPACE}/configmaps");
        create(&direct, &collection, 1, |_| configmap("watched", 32)).await?;
        if rows.contains(&Row::GetPods) {
            let pods = format!("/api/v1/namespaces/{NAMESPACE}/pods");
            create(&direct, &pods, scale.pods, pod).await?;
        }
        let watched = Watched { object: format!("{collection}/watched"), collection, writer: direct.clone() };
        Ok(Self { lab, direct, agent, watched })
    }

    /// Where a subject's requests go.
    pub(super) fn target(&self, agent: bool) -> &Target {
        if agent { &self.agent } else { &self.direct }
    }

    /// A subject's kubectl.
    pub(super) fn kubectl(&self, agent: bool) -> Result<&Tool> {
        if agent { self.lab.proxied() } else { Ok(self.lab.direct()) }
    }

    /// The processes on a subject's way: [`HOPS`], or none.
    pub(super) async fn hops(&self, agent: bool) -> Result<Vec<Hop>> {
        let mut hops = Vec::new();
        for name in HOPS.into_iter().filter(|_| agent) {
            hops.push(match self.lab.process(name) {
                Ok(process) => Hop::Process(process),
                Err(_) => Hop::Pods(self.lab.containers(AGENT, &format!("app.kubernetes.io/name={name}")).await?),
            });
        }
        Ok(hops)
    }

    /// Starts all of ours anew, so that what they hold is what the next load needs.
    pub(super) async fn restart(&self) -> Result<()> {
        let kubectl = self.lab.admin();
        kubectl.stdout(&["rollout", "restart", "deployment", "-n", AGENT]).await?;
        kubectl.stdout(&["rollout", "status", "deployment", "-n", AGENT, "--timeout=60s"]).await?;
        // What is about to end would be counted with what has begun.
        lab::until("the pods before to be gone", READY_WITHIN, || async {
            let pods = kubectl.stdout(&["get", "pods", "-n", AGENT, "-o", "name"]).await?;
            let deployments = kubectl.stdout(&["get", "deployments", "-n", AGENT, "-o", "name"]).await?;
            let (pods, deployments) = (pods.lines().count(), deployments.lines().count());
            ensure!(pods == deployments, "{pods} pods of {deployments} deployments");
            Ok(())
        })
        .await?;
        self.lab.process("control-plane")?.restart().await?;
        self.lab.wait_ready(READY_WITHIN).await
    }
}
