use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agent::Agents;
use crate::auth::{AgentTokens, Tokens};
use crate::clusters::{Clusters, Limits};
use crate::configs::Configs;
use crate::gateway::callers::Callers;
use crate::gateway::{self, Gateway, Registry, TunnelMetrics};
use crate::listener::Listener;
use crate::metrics::Metrics;
use crate::options::Options;
use crate::proxy::Proxy;
use crate::rest;
use crate::route::Router;
use crate::stay::StayLimits;
use crate::store::Folder;
use crate::tls;
use crate::web::{self, Certificates, Public, Routes, Web, WebMetrics};

/// How soon a revoked token stops working, and what was begun with it ends; and a new configuration is pushed.
const REFRESH: Duration = Duration::from_secs(1);
/// Renewing a token takes a round trip and a write at the agent's.
const SHORTEST_LIFETIME: Duration = Duration::from_secs(2);

/// Serves users and agents until shutdown; then requests under way may finish, and links end with them.
pub async fn run(options: Options, context: runtime::Context) -> anyhow::Result<()> {
    let tokens = Arc::new(open_tokens(&options)?);
    tokens.refresh().await?;
    let agent_tokens = Arc::new(AgentTokens::open(
        Arc::clone(&tokens),
        &options.data_dir,
        options.tokens.agent_lifetime.get().max(SHORTEST_LIFETIME),
    )?);
    let configs = Arc::new(open_configs(&options)?);
    configs.refresh().await?;
    let registry = Arc::new(open_registry(&options)?);
    registry.refresh().await?;
    let clusters = Arc::new(open_clusters(&options)?);
    let routes = Folder::open(options.data_dir.join("routes"))?;
    let routes = Arc::new(Routes::open(routes, options.gateway.route_ttl.get())?);
    let metrics = Metrics::register(&context.meter);
    let (tls, certificate) = tls::open(&options.tls, &options.data_dir)?.map(|tls| (tls.acceptor, tls.files)).unzip();
    let budget = mux::Budget::limited(options.links.message_unread_total);
    let description = "Bytes of answers sent as messages that wait for their clients";
    budget.register(&context.meter, "pipeops_control_plane_message_unread_bytes", description);
    let agents = Arc::new(Agents {
        clusters: Arc::clone(&clusters),
        tokens: Arc::clone(&agent_tokens),
        configs: Arc::clone(&configs),
        metrics: Arc::clone(&metrics),
        link_metrics: mux::LinkMetrics::register(&context.meter, "pipeops_control_plane"),
        unread: Arc::new(mux::Unread::limited(options.links.unread_total)),
        budget,
        options: options.links.clone(),
        shutdown: CancellationToken::new(),
    });
    let (tasks, cut) = (TaskTracker::new(), CancellationToken::new());
    let gateway = Gateway::new(
        Arc::new(gateway::Shared::new(
            Arc::clone(&clusters),
            options.gateway.clone(),
            TunnelMetrics::register(&context.meter),
            tasks.clone(),
            cut.clone(),
        )),
        Arc::clone(&registry),
    );
    let callers = Callers {
        tokens: Arc::clone(&tokens),
        agent_tokens: Arc::clone(&agent_tokens),
        clusters: Arc::clone(&clusters),
        certified_agents: options.tls.client_ca_file.is_some(),
    };
    let tunnels = gateway::api::router(gateway::api::Api {
        callers: callers.clone(),
        registry: Arc::clone(&registry),
        states: gateway.states(),
        options: options.gateway.clone(),
    });
    let web = Listening::open(&options).await?;
    let route_api = web::api::router(web::api::Api {
        callers,
        routes: Arc::clone(&routes),
        public: web.public,
        max_routes: options.gateway.max_routes,
    });
    let router = Arc::new(Router {
        rest: rest::router(Arc::clone(&tokens), Arc::clone(&clusters), tunnels.merge(route_api)),
        tokens: Arc::clone(&tokens),
        agent_tokens,
        agents: Arc::clone(&agents),
        proxy: Proxy {
            clusters: Arc::clone(&clusters),
            tracer: context.tracer.clone(),
            limits: Limits::from(&options.links),
            metrics: Arc::clone(&metrics),
        },
        metrics: Arc::clone(&metrics),
        certified_agents: options.tls.client_ca_file.is_some(),
        compression: options.links.compression,
    });
    let listening = context.health.condition("listener");
    let socket =
        TcpListener::bind(options.listen).await.with_context(|| format!("cannot listen on {}", options.listen))?;
    tracing::info!(address = %socket.local_addr().context("no local address")?, tls = tls.is_some(), "control plane listens");
    listening.ready();
    let listener = Arc::new(Listener {
        tls,
        site: router,
        max_connections: options.max_connections,
        stay: StayLimits::default(),
        stop: context.shutdown.clone(),
        cut,
        tasks,
    });
    let mut background = JoinSet::new();
    let web_metrics = WebMetrics::register(&context.meter);
    let site = Arc::new(Web {
        routes: Arc::clone(&routes),
        clusters,
        limits: Limits::of_visitors(&options),
        public: web.public,
        explains: options.gateway.explain_errors,
        trusted: options.gateway.trusted_proxies.clone(),
        metrics: Arc::clone(&web_metrics),
        limited: metrics,
    });
    web.serve(&options, &site, &listener, &mut background)?;
    background.spawn(refresh(tokens, configs, registry));
    background.spawn(expire(routes, web_metrics));
    background.spawn(gateway.run(context.shutdown.clone()));
    if let Some(files) = certificate {
        background.spawn(files.watch());
    }
    Arc::clone(&listener).run(socket).await;
    listening.not_ready("shutting down");

    tracing::info!(connections = listener.tasks.len(), "draining");
    agents.shutdown.cancel();
    listener.tasks.close();
    if timeout(options.common.drain_timeout(), listener.tasks.wait()).await.is_err() {
        tracing::info!(connections = listener.tasks.len(), "cutting what is left");
        listener.cut.cancel();
        listener.tasks.wait().await;
    }
    background.shutdown().await;
    Ok(())
}

pub fn open_tokens(options: &Options) -> anyhow::Result<Tokens> {
    Ok(Tokens::new(Folder::open(options.data_dir.join("tokens"))?))
}

pub fn open_configs(options: &Options) -> anyhow::Result<Configs> {
    Ok(Configs::new(Folder::open(options.data_dir.join("configs"))?))
}

pub fn open_clusters(options: &Options) -> anyhow::Result<Clusters> {
    Ok(Clusters::open(Folder::open(options.data_dir.join("clusters"))?)?)
}

pub fn open_registry(options: &Options) -> anyhow::Result<Registry> {
    Ok(Registry::new(Folder::open(options.data_dir.join("tunnels"))?))
}

/// Keeps what is in memory as it is on disk.
async fn refresh(tokens: Arc<Tokens>, configs: Arc<Configs>, registry: Arc<Registry>) {
    let mut ticks = interval(REFRESH);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = tokens.refresh().await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "cannot read the tokens; the old ones stay valid"
            );
        }
        if let Err(error) = configs.refresh().await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "cannot read the clusters' configurations; the old ones stay in force"
            );
        }
        if let Err(error) = registry.refresh().await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "cannot read the tunnels; the old ones stay open"
            );
        }
    }
}

/// Drops routes that nobody sends any more.
async fn expire(routes: Arc<Routes>, metrics: Arc<WebMetrics>) {
    let mut ticks = interval(REFRESH);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = routes.expire().await {
            tracing::error!(error = &error as &dyn std::error::Error, "routes that are too old stay");
        }
        metrics.hostnames.store(i64::try_from(routes.len()).unwrap_or(i64::MAX), Relaxed);
    }
}

/// The listeners for web apps.
struct Listening {
    http: Option<TcpListener>,
    https: Option<TcpListener>,
    public: Public,
}

impl Listening {
    async fn open(options: &Options) -> anyhow::Result<Self> {
        let (http, https) = (bind(options.gateway.http_listen).await?, bind(options.gateway.https_listen).await?);
        let address = |listener: &Option<TcpListener>| listener.as_ref().and_then(|socket| socket.local_addr().ok());
        let public = Public::of(&options.gateway, address(&http), address(&https));
        Ok(Self { http, https, public })
    }

    /// Serves `site` on them, until `like` stops.
    fn serve(
        self,
        options: &Options,
        site: &Arc<Web>,
        like: &Listener<Router>,
        background: &mut JoinSet<()>,
    ) -> anyhow::Result<()> {
        let listener = |tls| {
            Arc::new(Listener {
                tls,
                site: Arc::clone(site),
                max_connections: like.max_connections,
                stay: like.stay,
                stop: like.stop.clone(),
                cut: like.cut.clone(),
                tasks: like.tasks.clone(),
            })
        };
        if let Some(socket) = self.http {
            tracing::info!(address = %socket.local_addr()?, "web apps are served over HTTP");
            background.spawn(listener(None).run(socket));
        }
        if let Some(socket) = self.https {
            let (folder, authority) = (options.gateway.cert_dir.clone(), options.data_dir.join("tls"));
            let certificates = Certificates::open(Arc::clone(&site.routes), folder, &authority)?;
            let config = runtime::tls::server_config(Arc::clone(&certificates) as _, None, &tls::ALPN)?;
            tracing::info!(address = %socket.local_addr()?, "web apps are served over HTTPS");
            background.spawn(listener(Some(tls::Acceptor::new(config))).run(socket));
            background.spawn(certificates.watch());
        }
        Ok(())
    }
}

async fn bind(address: Option<SocketAddr>) -> anyhow::Result<Option<TcpListener>> {
    let Some(address) = address else { return Ok(None) };
    let socket = TcpListener::bind(address).await;
    Ok(Some(socket.with_context(|| {
        format!("cannot listen on {address} for web apps (gateway.http_listen, gateway.https_listen)")
    })?))
}
