//! state-keeper as the others see it: asked over the bus, with a file to keep its state in.

use std::path::Path;
use std::time::{Duration, Instant};

use bus::facts::AskStateKeeper;
use bus::state::{
    AcquireLease, GetConfig, GetIdentity, GetLinkToken, LeaseName, LinkToken, ReleaseLease, SaveConfig, SaveLinkToken,
    SaveRegistration, StateError,
};
use bus::{Bus, LocalBus, Request, RequestError, Service};
use protocol::{ClusterConfig, Secret};
use runtime::Context;
use state_keeper::{Options, run_on};
use tokio::task::JoinHandle;

const SOON: Duration = Duration::from_secs(10);
const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

struct Keeper {
    local: LocalBus,
    context: Context,
    task: JoinHandle<anyhow::Result<()>>,
}

fn options(folder: &Path, key: Option<&str>) -> Options {
    let mut options = Options::default();
    options.state.file = Some(folder.join("state"));
    options.state.key = key.map(Secret::new);
    options
}

impl Keeper {
    fn start(options: Options) -> Self {
        let (local, context) = (LocalBus::new(), Context::detached("state-keeper"));
        let task = tokio::spawn(run_on(options, context.clone(), local.bus(Service::StateKeeper)));
        Self { local, context, task }
    }

    /// Asks as `service`, once there is somebody to be asked.
    async fn ask<R: Request>(&self, service: Service, request: R) -> Result<R::Reply, RequestError<R::Error>> {
        let bus: Bus = self.local.bus(service);
        let limit = Instant::now() + SOON;
        loop {
            match bus.request(&request).await {
                Err(RequestError::NoResponder) if Instant::now() < limit && !self.task.is_finished() => {
                    tokio::task::yield_now().await;
                }
                answer => return answer,
            }
        }
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.context.shutdown.cancel();
        self.task.await?
    }
}

#[tokio::test]
async fn everything_in_the_table_is_answered_and_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let keeper = Keeper::start(options(folder.path(), Some(KEY)));
    let link = Service::GatewayLink;
    let identity = keeper.ask(link, GetIdentity {}).await.unwrap();
    let registration =
        SaveRegistration { cluster_id: "c-1".parse().unwrap(), gateway_ws_url: None, cluster_token: None };
    let saved = keeper.ask(link, registration).await.unwrap();
    assert_eq!(saved.agent_id, identity.agent_id);

    assert_eq!(keeper.ask(link, GetLinkToken {}).await.unwrap().token, None);
    let token = LinkToken { token: Secret::new("t"), expires_at: "2026-11-27T12:00:00Z".parse().unwrap() };
    keeper.ask(link, SaveLinkToken { token: Some(token.clone()) }).await.unwrap();

    assert_eq!(keeper.ask(Service::ProxyExecutor, GetConfig {}).await.unwrap().config, None);
    let config = ClusterConfig { revision: 1, ..ClusterConfig::default() };
    keeper.ask(link, SaveConfig { config: config.clone() }).await.unwrap();

    let lease =
        |holder: &str| AcquireLease { name: LeaseName::RouteSyncer, holder: holder.to_owned(), ttl_seconds: 3600 };
    assert!(keeper.ask(Service::RouteSyncer, lease("a")).await.unwrap().held);
    let state = keeper.ask(Service::RouteSyncer, lease("b")).await.unwrap();
    assert_eq!((state.held, state.holder.as_str()), (false, "a"));
    let release = ReleaseLease { name: LeaseName::RouteSyncer, holder: "a".to_owned() };
    keeper.ask(Service::RouteSyncer, release).await.unwrap();
    assert!(keeper.ask(Service::RouteSyncer, lease("b")).await.unwrap().held);

    let facts = keeper.ask(Service::LocalApi, AskStateKeeper {}).await.unwrap();
    assert_eq!((facts.version.as_str(), facts.cluster), ("0.0.0", None));
    assert!(facts.ready && facts.not_ready.is_empty(), "{:?}", facts.not_ready);
    keeper.stop().await.unwrap();

    let keeper = Keeper::start(options(folder.path(), Some(KEY)));
    assert_eq!(keeper.ask(link, GetIdentity {}).await.unwrap(), saved);
    assert_eq!(keeper.ask(link, GetLinkToken {}).await.unwrap().token, Some(token));
    assert_eq!(keeper.ask(Service::ProxyExecutor, GetConfig {}).await.unwrap().config, Some(config));
    keeper.stop().await.unwrap();
}

#[tokio::test]
async fn with_a_wrong_key_it_stays_up_and_says_why_it_is_not_ready() {
    let folder = tempfile::tempdir().unwrap();
    let keeper = Keeper::start(options(folder.path(), Some(KEY)));
    keeper.ask(Service::GatewayLink, GetIdentity {}).await.unwrap();
    keeper.stop().await.unwrap();

    let keeper = Keeper::start(options(folder.path(), Some(&KEY.replace("00", "ff"))));
    let error = keeper.ask(Service::GatewayLink, GetIdentity {}).await.unwrap_err();
    assert!(matches!(error, RequestError::Typed(StateError::Corrupt { .. })), "{error}");
    let facts = keeper.ask(Service::GatewayLink, AskStateKeeper {}).await.unwrap();
    assert!(!facts.ready && facts.not_ready.iter().any(|why| why.contains("another key")), "{:?}", facts.not_ready);
    keeper.stop().await.unwrap();
}

#[tokio::test]
async fn without_a_key_or_with_a_second_process_it_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let error = Keeper::start(options(folder.path(), None)).task.await.unwrap().unwrap_err();
    assert!(format!("{error:#}").contains("openssl rand -hex 32"), "{error:#}");

    let first = Keeper::start(options(folder.path(), Some(KEY)));
    first.ask(Service::GatewayLink, GetIdentity {}).await.unwrap();
    let error = Keeper::start(options(folder.path(), Some(KEY))).task.await.unwrap().unwrap_err();
    assert!(format!("{error:#}").contains("in use by another process"), "{error:#}");
    first.stop().await.unwrap();
}
