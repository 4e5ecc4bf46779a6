//! route-syncer against a real API server, with exactly the rights that the chart gives it; gateway-link and state-keeper are scripted.

use anyhow::{Result, ensure};
use bus::{
    LocalBus, Service, Serving,
    routes::{SyncRoutes, SyncedRoutes},
    state::{AcquireLease, LeaseState},
};
use e2e::place::Place;
use lab::{Lab, Options, until};
use protocol::route::{AcceptedRoute, RejectedRoute, RouteAnswer, RouteSync};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};
use tokio::{sync::watch, task::JoinHandle};

const SOON: Duration = Duration::from_secs(20);
/// From the last change of many to a control plane that has them all.
const SYNCED_WITHIN: Duration = Duration::from_secs(2);
const MANY: usize = 1000;

/// A route-syncer in this process that leads, and what it has last told the control plane.
struct Syncer {
    hosts: watch::Receiver<BTreeSet<String>>,
    context: runtime::Context,
    task: JoinHandle<Result<()>>,
    _serving: (Serving, Serving),
    _bus: LocalBus,
}

impl Syncer {
    async fn start(place: &Place, lab: &Lab) -> Result<Self> {
        runtime::tls::install_provider();
        let mut options = route_syncer::Options::default();
        options.kubernetes.api_url = Some(lab.api_url().to_owned());
        options.kubernetes.ca_file.clone_from(&place.ca_file);
        options.kubernetes.token_file.clone_from(&place.token_file);
        let client = options.kubernetes.client("default", SOON)?;
        let bus = LocalBus::new();
        let (told, hosts) = watch::channel(BTreeSet::new());
        let (link, keeper) = (bus.bus(Service::GatewayLink), bus.bus(Service::StateKeeper));
        let link = link.serve(move |SyncRoutes { sync }| {
            told.send_replace(sync.routes().map(|route| route.hostname).collect());
            std::future::ready(Ok(SyncedRoutes { answer: Some(answer(&sync)) }))
        });
        let keeper =
            keeper.serve(|AcquireLease { holder, .. }| std::future::ready(Ok(LeaseState { held: true, holder })));
        let serving = (link.await?, keeper.await?);
        let context = runtime::Context::detached("route-syncer");
        let running = route_syncer::run_on(options, context.clone(), bus.bus(Service::RouteSyncer), client);
        Ok(Self { hosts, context, task: tokio::spawn(running), _serving: serving, _bus: bus })
    }

    async fn told(&self, what: &str, limit: Duration, wanted: impl Fn(&BTreeSet<String>) -> bool) -> Result<()> {
        until(what, limit, || async {
            let hosts = self.hosts.borrow().clone();
            ensure!(wanted(&hosts), "{} hostnames: {:?}", hosts.len(), hosts.iter().take(5).collect::<Vec<_>>());
            anyhow::Ok(())
        })
        .await
    }

    async fn has(&self, hosts: &[&str]) -> Result<()> {
        let wanted: BTreeSet<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        self.told(&format!("the control plane to have {hosts:?}"), SOON, |hosts| *hosts == wanted).await
    }

    async fn stop(self) -> Result<()> {
        self.context.shutdown.cancel();
        self.task.await?
    }
}

/// Takes every hostname but those of another cluster.
fn answer(sync: &RouteSync) -> RouteAnswer {
    let mut answer = RouteAnswer::default();
    for route in sync.routes() {
        let (hostname, path) = (route.hostname, route.path);
        if hostname.starts_with("taken.") {
            answer.rejected.push(RejectedRoute { hostname, path, reason: "cluster north has it".to_owned() });
        } else {
            let url = format!("https://{hostname}{path}");
            answer.accepted.push(AcceptedRoute { hostname, path, url });
        }
    }
    answer
}

fn service() -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80}]}})
}

fn ingress(name: &str, host: &str, service: &str) -> Value {
    let backend = json!({"service": {"name": service, "port": {"name": "http"}}});
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": name, "labels": {"pipeops.io/managed": "true"}},
        "spec": {"rules": [{"host": host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}]}})
}

async fn lab() -> Result<Lab> {
    Lab::start(Options { services: false, ..Options::default() }).await
}

async fn described(place: &Place, lab: &Lab, name: &str, wanted: &[&str]) -> Result<()> {
    until("kubectl describe to say what became of it", SOON, || async {
        let shown = place.admin(lab, &["describe", "ingress", name]).await?;
        ensure!(wanted.iter().all(|wanted| shown.contains(wanted)), "no {wanted:?} in {shown}");
        anyhow::Ok(())
    })
    .await
}

#[tokio::test]
async fn an_ingress_is_published_while_it_is_there_and_describe_says_where() -> Result<()> {
    let lab = lab().await?;
    let place = Place::prepare(&lab, "route-syncer", "shown", &[]).await?;
    let syncer = Syncer::start(&place, &lab).await?;
    place.create(&lab, &service().to_string()).await?;
    place.create(&lab, &ingress("web", "a.example.com", "web").to_string()).await?;
    place.create(&lab, &ingress("rival", "taken.example.com", "web").to_string()).await?;
    place.create(&lab, &ingress("lost", "lost.example.com", "none").to_string()).await?;
    syncer.has(&["a.example.com", "taken.example.com"]).await?;
    described(&place, &lab, "web", &["Normal", "RoutePublished", "https://a.example.com/"]).await?;
    described(&place, &lab, "rival", &["Warning", "RouteRefused", "cluster north has it"]).await?;
    described(&place, &lab, "lost", &["Warning", "RouteSkipped", r#"there is no Service "none""#]).await?;
    ensure!(syncer.context.health.is_ready(), "{:?}", syncer.context.health.not_ready());

    // Gone and there again as quickly as kubectl can.
    for host in ["b.example.com", "c.example.com", "d.example.com"] {
        place.admin(&lab, &["delete", "ingress", "web", "--wait=false"]).await?;
        place.create(&lab, &ingress("web", host, "web").to_string()).await?;
    }
    syncer.has(&["d.example.com", "taken.example.com"]).await?;
    described(&place, &lab, "web", &["RoutePublished", "https://d.example.com/"]).await?;

    // What changes while the API server cannot be watched counts when it can.
    lab.process("kube-apiserver")?.restart().await?;
    lab.wait_ready(SOON).await?;
    place.admin(&lab, &["delete", "ingress", "rival"]).await?;
    place.create(&lab, &ingress("other", "e.example.com", "web").to_string()).await?;
    syncer
        .told("what was changed after a restart", Duration::from_secs(60), |hosts| {
            hosts.iter().eq(&["d.example.com".to_owned(), "e.example.com".to_owned()])
        })
        .await?;
    place.admin(&lab, &["delete", "ingress", "--all"]).await?;
    syncer.has(&[]).await?;
    syncer.stop().await?;
    lab.stop().await
}

#[tokio::test]
async fn a_thousand_ingresses_are_told_within_two_seconds() -> Result<()> {
    let lab = lab().await?;
    let place = Place::prepare(&lab, "route-syncer", "many", &[]).await?;
    place.create(&lab, &service().to_string()).await?;
    let items: Vec<Value> =
        (0..MANY).map(|n| ingress(&format!("web-{n}"), &format!("w{n}.example.com"), "web")).collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
    let running = Syncer::start(&place, &lab).await?;
    place.create(&lab, &list).await?;
    let begun = Instant::now();
    running.told("all of them", SYNCED_WITHIN, |hosts| hosts.len() == MANY).await?;
    println!("{MANY} Ingresses: all of them {:?} after the last was made", begun.elapsed());
    running.stop().await?;
    // One that comes when they are there.
    let later = Syncer::start(&place, &lab).await?;
    let begun = Instant::now();
    later.told("all of them", SYNCED_WITHIN, |hosts| hosts.len() == MANY).await?;
    println!("{MANY} Ingresses: all of them {:?} after a start", begun.elapsed());
    later.stop().await?;
    lab.stop().await
}

#[tokio::test]
async fn its_rights_are_to_look_and_to_say_what_became_of_it() -> Result<()> {
    let lab = lab().await?;
    let place = Place::prepare(&lab, "route-syncer", "rights", &[]).await?;
    for (verb, object, expected) in [
        ("list", "ingresses.networking.k8s.io", true),
        ("watch", "ingressclasses.networking.k8s.io", true),
        ("watch", "services", true),
        ("create", "events.events.k8s.io", true),
        ("update", "ingresses.networking.k8s.io", false),
        ("delete", "services", false),
        ("list", "events.events.k8s.io", false),
        ("list", "secrets", false),
        ("get", "pods", false),
    ] {
        let who = format!("--as=system:serviceaccount:{}:{}", place.namespace, place.account);
        let answer = lab.admin().run(&["auth", "can-i", verb, object, "-A", &who]).await?;
        ensure!((answer.stdout.trim() == "yes") == expected, "{verb} {object}: {}{}", answer.stdout, answer.stderr);
    }
    lab.stop().await
}
