use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bus::routes::{CallError, GetLink, LinkSeen, SyncRoutes, SyncedRoutes, UnregisterRoute};
use bus::state::{AcquireLease, Done, LeaseState, ReleaseLease};
use bus::{LocalBus, Service, Serving};
use protocol::route::{RouteAnswer, RouteSync};
use route_syncer::{Options, run_on};
use runtime::Context;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::api::{Api, INGRESSES, SERVICES};

/// In the test's time, of which hours go by in no time.
pub const SOON: Duration = Duration::from_secs(30);

/// What reached gateway-link.
#[derive(Debug, PartialEq)]
pub enum Call {
    Sync(RouteSync),
    Unregister(String),
}

#[derive(Default)]
pub struct Script {
    /// For the next syncs; then they are taken, with an answer or without.
    pub refusals: VecDeque<CallError>,
    pub answer: Option<RouteAnswer>,
    pub links: u64,
    /// Who leads, when it is another.
    pub leader: Option<String>,
    pub released: usize,
}

pub struct World {
    pub api: Api,
    pub script: Arc<Mutex<Script>>,
    pub context: Context,
    pub calls: mpsc::Receiver<Call>,
    running: JoinHandle<anyhow::Result<()>>,
    _serving: Vec<Serving>,
    _bus: LocalBus,
}

impl World {
    pub async fn start(script: Script) -> Self {
        let (api, script, bus) = (Api::default(), Arc::new(Mutex::new(script)), LocalBus::new());
        api.put(SERVICES, "shop", "web", json!({"spec": {"ports": [{"port": 80}]}}));
        let (to, calls) = mpsc::channel(64);
        let serving = serve(&bus, &script, &to).await;
        let context = Context::detached("route-syncer");
        let running =
            tokio::spawn(run_on(Options::default(), context.clone(), bus.bus(Service::RouteSyncer), api.client()));
        Self { api, script, context, calls, running, _serving: serving, _bus: bus }
    }

    pub fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock().unwrap());
    }

    /// One of ours for that hostname, which leads to a Service of `shop`.
    pub fn ingress(&self, name: &str, host: &str, service: &str) {
        let backend = json!({"service": {"name": service, "port": {"number": 80}}});
        let paths = json!([{"path": "/", "pathType": "Prefix", "backend": backend}]);
        let object = json!({
            "metadata": {"uid": format!("u-{name}"), "labels": {"pipeops.io/managed": "true"}},
            "spec": {"rules": [{"host": host, "http": {"paths": paths}}]},
        });
        self.api.put(INGRESSES, "shop", name, object);
    }

    pub async fn call(&mut self) -> Call {
        self.call_within(SOON).await
    }

    pub async fn call_within(&mut self, time: Duration) -> Call {
        timeout(time, self.calls.recv()).await.unwrap_or_else(|_| panic!("nothing is asked of gateway-link")).unwrap()
    }

    /// The hostnames of the next sync.
    pub async fn synced(&mut self) -> Vec<String> {
        match self.call().await {
            Call::Sync(sync) => sync.routes().map(|route| route.hostname).collect(),
            call => panic!("{call:?} is no sync"),
        }
    }

    /// Whether gateway-link is asked nothing for this time.
    pub async fn is_quiet(&mut self, time: Duration) {
        if let Ok(call) = timeout(time, self.calls.recv()).await {
            panic!("{call:?}");
        }
    }

    /// Waits for this many Events, and gives the last.
    pub async fn event(&self, number: usize) -> (String, String) {
        let there = async {
            while self.api.events().len() < number {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let _late = timeout(SOON, there).await;
        let events = self.api.events();
        assert_eq!(events.len(), number, "{events:?}");
        events.last().cloned().unwrap()
    }

    pub async fn stop(self) {
        self.context.shutdown.cancel();
        timeout(SOON, self.running).await.expect("it does not stop").unwrap().unwrap();
    }
}

async fn serve(bus: &LocalBus, script: &Arc<Mutex<Script>>, to: &mpsc::Sender<Call>) -> Vec<Serving> {
    let (link, keeper) = (bus.bus(Service::GatewayLink), bus.bus(Service::StateKeeper));
    let [synced, seen, asked, released] = std::array::from_fn(|_| Arc::clone(script));
    let [syncs, unregistered] = std::array::from_fn(|_| to.clone());
    vec![
        link.serve(move |SyncRoutes { sync }| {
            syncs.try_send(Call::Sync(sync)).unwrap();
            let mut script = synced.lock().unwrap();
            let answer = match script.refusals.pop_front() {
                Some(error) => Err(error),
                None => Ok(SyncedRoutes { answer: script.answer.clone() }),
            };
            std::future::ready(answer)
        })
        .await
        .unwrap(),
        link.serve(move |UnregisterRoute { route }| {
            unregistered.try_send(Call::Unregister(route.hostname)).unwrap();
            std::future::ready(Ok(Done {}))
        })
        .await
        .unwrap(),
        link.serve(move |_: GetLink| {
            let links = seen.lock().unwrap().links;
            std::future::ready(Ok(LinkSeen { instance: "link-1".to_owned(), links, connected: links > 0 }))
        })
        .await
        .unwrap(),
        keeper
            .serve(move |ask: AcquireLease| {
                let leader = asked.lock().unwrap().leader.clone();
                let held = leader.is_none();
                std::future::ready(Ok(LeaseState { held, holder: leader.unwrap_or(ask.holder) }))
            })
            .await
            .unwrap(),
        keeper
            .serve(move |_: ReleaseLease| {
                released.lock().unwrap().released += 1;
                std::future::ready(Ok(Done {}))
            })
            .await
            .unwrap(),
    ]
}
