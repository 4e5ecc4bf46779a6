//! The agent: the real gateway-link and proxy-executor in one process, on a bus of it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bus::state::{GetIdentity, Identity, SaveRegistration};
use bus::{Bus, LocalBus, Service, Serving};
use gateway_link::{Options, PipeOps};
use protocol::{AgentId, Secret};
use runtime::Context;
use targets::Names;
use tokio::task::JoinSet;

/// Ends when dropped.
pub struct Agent {
    _keeper: (Serving, Serving),
    _services: JoinSet<anyhow::Result<()>>,
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
        let keeper = keeper(&keeper_bus).await;
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
        let context = Context::detached("proxy-executor");
        running.spawn(proxy_executor::serve(executor_bus, names.clone(), executor, context));
        let context = Context::detached("gateway-link");
        let stop = context.shutdown.clone();
        running.spawn(gateway_link::serve(link_bus, names, link, context));
        Self { _keeper: keeper, _services: running, stop }
    }
}

async fn keeper(bus: &Bus) -> (Serving, Serving) {
    let fresh = Identity { agent_id: AgentId::new("agent-1").unwrap(), cluster_id: None, gateway_ws_url: None };
    let identity = Arc::new(Mutex::new(fresh));
    let asked = Arc::clone(&identity);
    let get = bus.serve(move |_: GetIdentity| {
        let identity = asked.lock().unwrap().clone();
        async move { Ok(identity) }
    });
    let get = get.await.unwrap();
    let save = bus.serve(move |registration: SaveRegistration| {
        let mut identity = identity.lock().unwrap();
        identity.cluster_id = Some(registration.cluster_id);
        let saved = identity.clone();
        async move { Ok(saved) }
    });
    (get, save.await.unwrap())
}
