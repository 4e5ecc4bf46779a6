//! The cluster's objects, kept up to date.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::reflector::{self, Store, store::Writer};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource, ResourceExt as _};
use runtime::Condition;
use serde::de::DeserializeOwned;
use targets::Access;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::rules::{self, Objects, Wished};

/// A watch is asked for anew after this, so that a connection that died in silence is noticed.
const WATCH_SECONDS: u32 = 50;
/// What changes together goes out together.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// The largest annotation of many objects, and never looked at.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Looks at everything, and gives what is wished for whenever that changes. Never returns.
pub async fn follow(client: Client, access: Access, condition: Condition, wished: watch::Sender<Option<Arc<Wished>>>) {
    let watching = Arc::new(Watching { changed: Notify::new(), missing: Mutex::default(), condition });
    let mut tasks = JoinSet::new();
    let ingresses = watching.start::<Ingress>(&mut tasks, &client, "Ingresses");
    let classes = watching.start::<IngressClass>(&mut tasks, &client, "IngressClasses");
    let services = watching.start::<Service>(&mut tasks, &client, "Services");
    loop {
        watching.changed.notified().await;
        sleep(DEBOUNCE).await;
        if !watching.is_complete() {
            continue;
        }
        let objects = Objects { ingresses: ingresses.state(), classes: classes.state(), services: services.state() };
        let new = rules::wished(&objects, &access);
        wished.send_if_modified(|old| {
            let changed = old.as_deref() != Some(&new);
            if changed {
                *old = Some(Arc::new(new));
            }
            changed
        });
    }
}

struct Watching {
    changed: Notify,
    /// Kinds that were never listed, with why.
    missing: Mutex<BTreeMap<&'static str, String>>,
    condition: Condition,
}

impl Watching {
    fn start<K>(self: &Arc<Self>, tasks: &mut JoinSet<()>, client: &Client, kind: &'static str) -> Store<K>
    where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + Sync + 'static,
    {
        self.missing(|missing| missing.insert(kind, "not listed yet".to_owned()));
        let (store, writer) = reflector::store();
        tasks.spawn(Arc::clone(self).follow(Api::all(client.clone()), writer, kind));
        store
    }

    async fn follow<K>(self: Arc<Self>, api: Api<K>, mut writer: Writer<K>, kind: &'static str)
    where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + Sync + 'static,
    {
        let config = watcher::Config::default().timeout(WATCH_SECONDS);
        let events = watcher::watcher(api, config).default_backoff().modify(|object| {
            object.managed_fields_mut().clear();
            object.annotations_mut().remove(LAST_APPLIED);
        });
        let mut events = pin!(events);
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    writer.apply_watcher_event(&event);
                    if matches!(event, Event::InitDone) {
                        self.missing(|missing| missing.remove(kind));
                    }
                    if !matches!(event, Event::Init | Event::InitApply(_)) {
                        self.changed.notify_one();
                    }
                }
                Err(error) => {
                    let error = runtime::error_text(&error);
                    tracing::warn!(error, "{kind} cannot be watched now: what was seen last counts");
                    self.missing(|missing| missing.get_mut(kind).map(|why| *why = error));
                }
            }
        }
    }

    fn missing<T>(&self, change: impl FnOnce(&mut BTreeMap<&'static str, String>) -> T) {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut missing);
        let why = missing.iter().map(|(kind, why)| format!("{kind}: {why}")).collect::<Vec<_>>().join("; ");
        self.condition.set(if why.is_empty() { Ok(()) } else { Err(why) });
    }

    fn is_complete(&self) -> bool {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}
