use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use protocol::ClusterId;
use protocol::route::Route;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::table::{Host, Table, key};
use crate::store::{Complaints, Contents, Folder, Record, StoreError};

/// A cluster's routes as they are stored: all in one file, so that a sync of a thousand is one write.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RouteSet {
    pub cluster: ClusterId,
    /// When the agent said so last, up to a part of the time that they are good for.
    pub refreshed: Timestamp,
    pub routes: Vec<Route>,
}

impl Record for RouteSet {
    fn name(&self) -> &str {
        self.cluster.as_str()
    }
}

/// All routes, in memory and on disk. Agents change them through this process alone, so the folder is read once.
#[derive(Debug)]
pub struct Routes {
    folder: Folder<RouteSet>,
    ttl: Duration,
    /// Whoever writes files holds it: changes take turns.
    turn: Mutex<()>,
    sets: Mutex<BTreeMap<ClusterId, Set>>,
    table: RwLock<Table>,
}

#[derive(Debug)]
struct Set {
    stored: Arc<RouteSet>,
    refreshed: Timestamp,
}

impl Set {
    fn is_old(&self, now: Timestamp, ttl: Duration) -> bool {
        !ttl.is_zero() && self.refreshed < now && now.duration_since(self.refreshed).unsigned_abs() > ttl
    }
}

/// The file is written for the time alone only when that much of what the routes are good for has passed.
const REFRESH_PART: u32 = 24;

/// A hostname that another cluster has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    pub owner: ClusterId,
}

/// What became of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Added {
    Done,
    Taken(Taken),
    TooMany,
}

impl Routes {
    /// Reads what is stored. Blocks.
    pub fn open(folder: Folder<RouteSet>, ttl: Duration) -> Result<Self, StoreError> {
        let Contents { records, broken } = folder.all()?;
        Complaints::default().tell(&broken, "the cluster's routes are there again once its agent has sent them");
        let (mut sets, mut table) = (BTreeMap::new(), Table::default());
        for set in records {
            table.replace(&set.cluster, &[], &set.routes);
            sets.insert(set.cluster.clone(), Set { refreshed: set.refreshed, stored: Arc::new(set) });
        }
        Ok(Self { folder, ttl, turn: Mutex::default(), sets: Mutex::new(sets), table: RwLock::new(table) })
    }

    /// Where requests for that name go; it is lower case.
    pub fn host(&self, name: &str) -> Option<Arc<Host>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).host(name).cloned()
    }

    /// Whether any hostname is passed through.
    pub fn passes_through(&self) -> bool {
        self.table.read().unwrap_or_else(PoisonError::into_inner).passes_through()
    }

    /// Whether there are routes of exactly that hostname.
    pub fn has(&self, hostname: &str) -> bool {
        self.table.read().unwrap_or_else(PoisonError::into_inner).has(hostname)
    }

    /// Hostnames there are.
    pub fn len(&self) -> usize {
        self.table.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub fn all(&self) -> Vec<Arc<RouteSet>> {
        self.sets().values().map(|set| Arc::clone(&set.stored)).collect()
    }

    pub fn of(&self, cluster: &ClusterId) -> Option<Arc<RouteSet>> {
        self.sets().get(cluster).map(|set| Arc::clone(&set.stored))
    }

    /// Makes `routes` all that the cluster has, but for those whose hostname is another's: gives each with its owner.
    pub async fn sync(
        self: &Arc<Self>,
        cluster: ClusterId,
        routes: Vec<Route>,
    ) -> Result<Vec<(Route, Option<Taken>)>, StoreError> {
        self.change(cluster, |this, cluster, _| {
            let claimed = |route: Route| {
                let taken = this.taken(cluster, &route);
                (route, taken)
            };
            let outcome: Vec<_> = routes.into_iter().map(claimed).collect();
            let free = outcome.iter().filter(|(_, taken)| taken.is_none());
            (free.map(|(route, _)| route.clone()).collect(), outcome)
        })
        .await
    }

    /// Adds one, in place of one with the same hostname and path, or says who has the hostname. `max` is how many there may
    /// be; none is added above that.
    pub async fn add(self: &Arc<Self>, cluster: ClusterId, route: Route, max: usize) -> Result<Added, StoreError> {
        self.change(cluster, move |this, cluster, before| {
            let mut now = before.to_vec();
            if let Some(taken) = this.taken(cluster, &route) {
                return (now, Added::Taken(taken));
            }
            // A hostname has its TLS ended in one place.
            let replaces = |other: &Route| other.tls_mode != route.tls_mode || key(other) == key(&route);
            now.retain(|other| other.hostname != route.hostname || !replaces(other));
            if now.len() >= max {
                return (before.to_vec(), Added::TooMany);
            }
            now.push(route);
            (now, Added::Done)
        })
        .await
    }

    /// Removes all of the cluster with that hostname.
    pub async fn remove(self: &Arc<Self>, cluster: ClusterId, hostname: String) -> Result<(), StoreError> {
        let rest = move |before: &[Route]| {
            before.iter().filter(|route| route.hostname != hostname).cloned().collect::<Vec<_>>()
        };
        self.change(cluster, move |_, _, before| (rest(before), ())).await
    }

    /// Drops those that were not refreshed in time.
    pub async fn expire(self: &Arc<Self>) -> Result<(), StoreError> {
        let now = Timestamp::now();
        let old: Vec<ClusterId> = self
            .sets()
            .iter()
            .filter(|(_, set)| set.is_old(now, self.ttl))
            .map(|(cluster, _)| cluster.clone())
            .collect();
        if old.is_empty() {
            return Ok(());
        }
        let this = Arc::clone(self);
        let dropping = spawn_blocking(move || {
            let _turn = this.turn.lock().unwrap_or_else(PoisonError::into_inner);
            for cluster in old {
                // It may have been refreshed meanwhile.
                let set = this
                    .sets()
                    .get(&cluster)
                    .filter(|set| set.is_old(now, this.ttl))
                    .map(|set| Arc::clone(&set.stored));
                let Some(set) = set else { continue };
                this.folder.remove(cluster.as_str())?;
                this.table().replace(&cluster, &set.routes, &[]);
                this.sets().remove(&cluster);
                tracing::warn!(%cluster, routes = set.routes.len(), "routes are dropped: their cluster's agent has not sent them for gateway.route_ttl");
            }
            Ok(())
        });
        dropping.await.map_err(|died| self.folder.unusable(died.into()))?
    }

    fn taken(&self, cluster: &ClusterId, route: &Route) -> Option<Taken> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.owner(&route.hostname, cluster).map(|owner| Taken { owner: owner.clone() })
    }

    /// Replaces the cluster's routes by those that `plan` makes of them: on disk first, and only if they differ. One change
    /// at a time, so that of two clusters that want a hostname one gets it. Goes on when its caller is gone.
    async fn change<T: Send + 'static>(
        self: &Arc<Self>,
        cluster: ClusterId,
        plan: impl FnOnce(&Self, &ClusterId, &[Route]) -> (Vec<Route>, T) + Send + 'static,
    ) -> Result<T, StoreError> {
        let this = Arc::clone(self);
        let changing = spawn_blocking(move || {
            let _turn = this.turn.lock().unwrap_or_else(PoisonError::into_inner);
            let before = this.of(&cluster);
            let old = before.as_ref().map_or(&[][..], |set| &set.routes);
            let (routes, outcome) = plan(&this, &cluster, old);
            let now = Timestamp::now();
            let is_fresh = before
                .as_ref()
                .is_some_and(|set| now.duration_since(set.refreshed).unsigned_abs() < this.ttl / REFRESH_PART);
            if routes == old && (is_fresh || routes.is_empty()) {
                if let Some(set) = this.sets().get_mut(&cluster) {
                    set.refreshed = now;
                }
                return Ok(outcome);
            }
            let set = RouteSet { cluster: cluster.clone(), refreshed: now, routes };
            if set.routes.is_empty() {
                this.folder.remove(cluster.as_str())?;
            } else {
                this.folder.put(&set)?;
            }
            if set.routes != old {
                this.table().replace(&cluster, old, &set.routes);
            }
            if set.routes.is_empty() {
                this.sets().remove(&cluster);
            } else {
                this.sets().insert(cluster, Set { refreshed: now, stored: Arc::new(set) });
            }
            Ok(outcome)
        });
        changing.await.map_err(|died| self.folder.unusable(died.into()))?
    }

    fn sets(&self) -> MutexGuard<'_, BTreeMap<ClusterId, Set>> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn table(&self) -> std::sync::RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(place: &tempfile::TempDir, ttl: Duration) -> Arc<Routes> {
        Arc::new(Routes::open(Folder::open(place.path().join("routes")).unwrap(), ttl).unwrap())
    }

    fn route(hostname: &str, path: &str) -> Route {
        let text = format!(
            r#"{{"hostname":"{hostname}","namespace":"a","service_name":"b","service_port":80,"path":"{path}"}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn cluster(id: &str) -> ClusterId {
        ClusterId::new(id).unwrap()
    }

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[tokio::test]
    async fn a_sync_replaces_exactly_the_clusters_own_set_and_a_restart_keeps_it() {
        let place = tempfile::tempdir().unwrap();
        let routes = open(&place, DAY);
        let set = |names: &[&str]| names.iter().map(|name| route(name, "/")).collect::<Vec<_>>();
        routes.sync(cluster("one"), set(&["a.x.com", "b.x.com"])).await.unwrap();
        routes.sync(cluster("two"), set(&["c.x.com"])).await.unwrap();
        let outcome = routes.sync(cluster("one"), set(&["b.x.com", "c.x.com", "d.x.com"])).await.unwrap();
        let taken: Vec<_> = outcome.into_iter().filter_map(|(route, taken)| Some((route.hostname, taken?))).collect();
        assert_eq!(taken, [("c.x.com".to_owned(), Taken { owner: cluster("two") })]);
        for routes in [&routes, &open(&place, DAY)] {
            let owner = |name: &str| routes.host(name).map(|host| host.cluster.to_string());
            assert_eq!(
                ["a.x.com", "b.x.com", "c.x.com", "d.x.com"].map(|name| owner(name).unwrap_or_default()),
                ["", "one", "two", "one"]
            );
        }
        routes.sync(cluster("one"), Vec::new()).await.unwrap();
        assert_eq!((routes.len(), open(&place, DAY).all().len()), (1, 1));
    }

    #[tokio::test]
    async fn one_is_added_replaced_and_removed() {
        let place = tempfile::tempdir().unwrap();
        let routes = open(&place, DAY);
        for path in ["/", "/a", "/a/"] {
            assert_eq!(routes.add(cluster("one"), route("a.x.com", path), 2).await.unwrap(), Added::Done);
        }
        assert_eq!(routes.of(&cluster("one")).unwrap().routes.len(), 2);
        assert_eq!(routes.add(cluster("one"), route("b.x.com", "/"), 2).await.unwrap(), Added::TooMany);
        let taken = routes.add(cluster("two"), route("a.x.com", "/b"), 2).await.unwrap();
        assert_eq!(taken, Added::Taken(Taken { owner: cluster("one") }));
        routes.remove(cluster("two"), "a.x.com".to_owned()).await.unwrap();
        assert!(routes.host("a.x.com").is_some(), "another cluster removes it");
        routes.remove(cluster("one"), "a.x.com".to_owned()).await.unwrap();
        assert!(routes.host("a.x.com").is_none());
    }

    #[tokio::test]
    async fn a_file_is_not_written_for_what_it_holds_and_old_routes_go() {
        let place = tempfile::tempdir().unwrap();
        let routes = open(&place, DAY);
        routes.sync(cluster("one"), vec![route("a.x.com", "/")]).await.unwrap();
        let written = || std::fs::metadata(place.path().join("routes/one.json")).unwrap().modified().unwrap();
        let first = written();
        routes.sync(cluster("one"), vec![route("a.x.com", "/")]).await.unwrap();
        assert_eq!(written(), first);
        routes.expire().await.unwrap();
        assert!(routes.host("a.x.com").is_some());
        let never = open(&place, Duration::ZERO);
        never.expire().await.unwrap();
        assert!(never.host("a.x.com").is_some());
        let short = open(&place, Duration::from_nanos(1));
        short.expire().await.unwrap();
        assert!(short.host("a.x.com").is_none() && short.all().is_empty());
        assert!(!place.path().join("routes/one.json").exists());
    }
}
