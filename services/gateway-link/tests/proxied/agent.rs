//! The agent: the real gateway-link, proxy-executor and state-keeper in one process, on a bus of it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bus::{Bus, LocalBus, Service};
use gateway_link::{Options, PipeOps};
use protocol::Secret;
use runtime::Context;
use targets::Names;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::control_plane::LIMIT;

/// Ends when dropped.
pub struct Agent {
    /// Where state-keeper has its file.
    _folder: TempDir,
    _services: JoinSet<anyhow::Result<()>>,
    scrape: Box<dyn Fn() -> anyhow::Result<String> + Send + Sync>,
    pub stop: tokio_util::sync::CancellationToken,
}

/// What a test may want to be otherwise.
#[derive(Default)]
pub struct Settings {
    pub link: Options,
    pub executor: proxy_executor::Options,
}

impl Agent {
    /// An agent of this control plane, in a cluster with this API server and these Services.
    pub async fn start(
        control_plane: SocketAddr,
        api_server: SocketAddr,
        services: &[(&str, SocketAddr)],
        settings: Settings,
    ) -> Self {
        let local = LocalBus::new();
        let buses =
            [Service::StateKeeper, Service::ProxyExecutor, Service::GatewayLink].map(|service| local.bus(service));
        Self::on(buses, control_plane, api_server, services, settings).await
    }

    /// The same with these ends of a bus: state-keeper's, proxy-executor's and gateway-link's.
    pub async fn on(
        [keeper_bus, executor_bus, link_bus]: [Bus; 3],
        control_plane: SocketAddr,
        api_server: SocketAddr,
        services: &[(&str, SocketAddr)],
        settings: Settings,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = state_keeper::State {
            file: Some(folder.path().join("state")),
            key: Some(Secret::new("5a".repeat(32))),
            ..state_keeper::State::default()
        };
        let keeper = state_keeper::Options { state, ..state_keeper::Options::default() };
        let names = Names::table(services.iter().map(|(name, address)| ((*name).to_owned(), *address)));
        let mut executor = settings.executor;
        executor.kubernetes.server.api_url = Some(format!("http://{api_server}"));
        let link = Options {
            pipeops: PipeOps {
                api_url: format!("http://{control_plane}"),
                token: Some(Secret::new("token")),
                ..settings.link.pipeops
            },
            ..settings.link
        };
        let mut running = JoinSet::new();
        running.spawn(state_keeper::run_on(keeper, Context::detached("state-keeper"), keeper_bus));
        let context = Context::detached("proxy-executor");
        running.spawn(proxy_executor::run_on(executor, context, executor_bus, names.clone()));
        let (context, scrape) = Context::measured("gateway-link").unwrap();
        let stop = context.shutdown.clone();
        running.spawn(gateway_link::run_on(link, context, link_bus, names));
        Self { _folder: folder, _services: running, scrape: Box::new(scrape), stop }
    }

    /// What gateway-link's `/metrics` says under this name, labels included; 0 if nothing was counted under it yet.
    pub fn metric(&self, name: &str) -> f64 {
        let text = (self.scrape)().unwrap();
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok()).unwrap_or_default()
    }

    /// Waits until it says that much.
    pub async fn measures(&self, name: &str, wanted: f64) {
        let begun = Instant::now();
        while self.metric(name) != wanted {
            assert!(begun.elapsed() < LIMIT, "{name} is not {wanted} in\n{}", (self.scrape)().unwrap());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
