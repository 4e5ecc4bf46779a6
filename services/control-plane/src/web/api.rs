//! The routes' REST endpoints. Agents say what routes their cluster has; users see those of the clusters they reach.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use bytes::Bytes;
use protocol::route::{
    AcceptedRoute, BackendProtocol, IngressRoutes, RejectedRoute, Route, RouteAnswer, RouteSync, TlsMode, Unregister,
};
use protocol::tunnel::RoutingMode;
use protocol::{Status, endpoint};
use runtime::error_text;
use serde::Deserialize as _;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::registry::{Added, Routes, Taken};
use super::table::key;
use super::url::Public;
use crate::clusters::Cluster;
use crate::gateway::callers::{Answer, Callers, Reader, not_its_agent, read, respond};
use crate::site::Client;
use crate::store::StoreError;

/// Largest body: as many routes as a cluster may have, with their annotations.
const MAX_BODY: usize = 16 << 20;
/// Entries that are none are named up to this many, and routes that are refused up to as many as there may be.
const MOST_UNUSABLE: usize = 256;

/// What the endpoints need.
#[derive(Clone, Debug)]
pub struct Api {
    pub callers: Callers,
    pub routes: Arc<Routes>,
    pub public: Public,
    /// Routes that one cluster may have.
    pub max_routes: usize,
}

pub fn router(api: Api) -> Router {
    Router::new()
        .route(endpoint::ROUTES, get(list))
        .route(endpoint::ROUTES_REGISTER, post(register))
        .route(endpoint::ROUTES_SYNC, post(sync))
        .route(endpoint::ROUTES_UNREGISTER, post(unregister))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(api)
}

async fn list(State(api): State<Api>, Extension(client): Extension<Client>, headers: HeaderMap) -> Response {
    let answer = async {
        let reader = api.callers.reader(&headers, &client).await?;
        let _authenticated = client.stay.authenticated();
        let sets = match reader {
            Reader::Agent(cluster) => {
                let id = cluster.record().id.clone();
                api.routes.of(&id).into_iter().collect()
            }
            Reader::User(token) => {
                let mut sets = api.routes.all();
                sets.retain(|set| token.may_reach(&api.name(set.cluster.as_str())));
                sets
            }
        };
        Ok(Json(sets.iter().flat_map(|set| set.routes.iter().cloned()).collect::<Vec<Route>>()))
    };
    respond(answer.await)
}

async fn register(
    State(api): State<Api>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let answer = async {
        let cluster = api.callers.agent(&headers, &client).await?;
        let _authenticated = client.stay.authenticated();
        let mut route: Route = read(&body)?;
        is_of(&cluster, &route.cluster_uuid)?;
        let id = cluster.record().id.clone();
        api.plan(&cluster, &mut route).map_err(|reason| Box::new(Status::bad_request(reason)))?;
        match api.routes.add(id, route.clone(), api.max_routes).await.map_err(not_stored)? {
            Added::Done => Ok(Json(RouteAnswer { accepted: vec![api.accepted(&route)], rejected: Vec::new() })),
            Added::Taken(taken) => Err(Box::new(Status::failure(409, "Conflict", api.taken(&route.hostname, &taken)))),
            Added::TooMany => Err(Box::new(Status::too_many_requests(api.too_many()))),
        }
    };
    respond(answer.await)
}

async fn sync(
    State(api): State<Api>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let answer = async {
        let cluster = api.callers.agent(&headers, &client).await?;
        let _authenticated = client.stay.authenticated();
        let read = spawn_blocking(move || Asked::read(&body)).await;
        let asked = read.map_err(|died| Box::new(Status::unavailable(died.to_string())))??;
        is_of(&cluster, &asked.sync.cluster_uuid)?;
        let id = cluster.record().id.clone();
        let mut rejected = asked.unusable;
        let mut planned = Vec::<Route>::new();
        let mut places = HashMap::<(String, String, bool), usize>::new();
        let mut modes = HashMap::<String, TlsMode>::new();
        for mut route in asked.sync.routes() {
            let reason = match api.plan(&cluster, &mut route) {
                Err(reason) => reason,
                Ok(()) if modes.get(&route.hostname).is_some_and(|mode| *mode != route.tls_mode) => {
                    "another route of the hostname has its TLS ended elsewhere".to_owned()
                }
                Ok(()) => {
                    modes.insert(route.hostname.clone(), route.tls_mode);
                    let (path, exact) = key(&route);
                    let place = (route.hostname.clone(), path.to_owned(), exact);
                    match places.get(&place).and_then(|other| planned.get(*other)) {
                        // Two objects may well ask for the same.
                        Some(same) if same.check().ok() == route.check().ok() && same.tls == route.tls => continue,
                        Some(other) => format!("{:?} has the same hostname and path", other.ingress_name),
                        None if planned.len() >= api.max_routes => api.too_many(),
                        None => {
                            places.insert(place, planned.len());
                            planned.push(route);
                            continue;
                        }
                    }
                }
            };
            if rejected.len() >= MOST_UNUSABLE + api.max_routes {
                break;
            }
            rejected.push(RejectedRoute { hostname: route.hostname, path: route.path, reason });
        }
        let mut accepted = Vec::new();
        for (route, taken) in api.routes.sync(id, planned).await.map_err(not_stored)? {
            match taken {
                None => accepted.push(api.accepted(&route)),
                Some(taken) => {
                    let reason = api.taken(&route.hostname, &taken);
                    rejected.push(RejectedRoute { hostname: route.hostname, path: route.path, reason });
                }
            }
        }
        Ok(Json(RouteAnswer { accepted, rejected }))
    };
    respond(answer.await)
}

async fn unregister(
    State(api): State<Api>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let answer = async {
        let cluster = api.callers.agent(&headers, &client).await?;
        let _authenticated = client.stay.authenticated();
        let hostname = read::<Unregister>(&body)?.hostname.to_ascii_lowercase();
        let id = cluster.record().id.clone();
        // What is not there is as it should be: the agent may ask again after a lost answer.
        api.routes.remove(id, hostname).await.map_err(not_stored)?;
        Ok(Json(RouteAnswer::default()))
    };
    respond(answer.await)
}

impl Api {
    /// Makes the route as it is kept; an error says why there is none.
    fn plan(&self, cluster: &Cluster, route: &mut Route) -> Result<(), String> {
        const NONE: &str =
            "this control plane serves no web apps: whoever runs it sets gateway.http_listen or gateway.https_listen";
        route.hostname.make_ascii_lowercase();
        route.cluster_uuid = cluster.record().id.to_string();
        route.check().map_err(|error| error_text(&error))?;
        if route.tls_mode == TlsMode::Passthrough {
            if self.public.https.is_none() {
                return Err(
                    "this control plane passes no TLS through: whoever runs it sets gateway.https_listen".to_owned()
                );
            }
            if route.path != "/" {
                return Err("a connection that is passed through has no path: the route's is /".to_owned());
            }
            route.tls = true;
        }
        if route.protocol == BackendProtocol::H2c {
            return Err("this control plane speaks no HTTP/2 to Services".to_owned());
        }
        if route.routing_mode != RoutingMode::Direct && !self.public.is_served() {
            return Err(NONE.to_owned());
        }
        Ok(())
    }

    fn accepted(&self, route: &Route) -> AcceptedRoute {
        AcceptedRoute { hostname: route.hostname.clone(), path: route.path.clone(), url: self.public.url(route) }
    }

    fn taken(&self, hostname: &str, taken: &Taken) -> String {
        let owner = self.name(taken.owner.as_str());
        format!(
            "the hostname {hostname:?} belongs to cluster {owner:?}, which has it or a wildcard with it among its routes"
        )
    }

    fn too_many(&self) -> String {
        format!("this cluster has as many routes as it may have, {} (gateway.max_routes)", self.max_routes)
    }

    /// Of the cluster with that id.
    fn name(&self, id: &str) -> String {
        self.callers.clusters.find(id).map_or_else(|| id.to_owned(), |cluster| cluster.record().name.clone())
    }
}

fn is_of(cluster: &Cluster, named: &str) -> Answer<()> {
    let record = cluster.record();
    if named.is_empty() || named == record.name || named == record.id.as_str() {
        return Ok(());
    }
    Err(not_its_agent(named))
}

fn not_stored(error: StoreError) -> Box<Status> {
    tracing::error!(error = error_text(&error), "cannot store routes");
    Box::new(Status::unavailable("the control plane cannot store the routes, its log says why; try again"))
}

/// A sync, without the entries that are none.
struct Asked {
    sync: RouteSync,
    unusable: Vec<RejectedRoute>,
}

impl Asked {
    fn read(body: &[u8]) -> Answer<Self> {
        let mut whole: Value = read(body)?;
        // Without it there is no set, which is not an empty one.
        let entries = match whole.get_mut("ingresses").map(Value::take) {
            Some(Value::Array(entries)) => entries,
            Some(Value::Null) => Vec::new(),
            _ => return Err(Box::new(Status::bad_request("the body has no list \"ingresses\""))),
        };
        let mut sync: RouteSync = serde_json::from_value(whole)
            .map_err(|error| Box::new(Status::bad_request(format!("the body is not usable: {error}"))))?;
        let mut unusable = Vec::new();
        for entry in entries {
            if let Ok(ingress) = IngressRoutes::deserialize(&entry) {
                sync.ingresses.push(ingress);
                continue;
            }
            let mut single = SinglePaths::of(entry);
            while let Some((one, hostname, path)) = single.next() {
                match IngressRoutes::deserialize(one) {
                    Ok(ingress) => sync.ingresses.push(ingress),
                    Err(_) if unusable.len() >= MOST_UNUSABLE => break,
                    Err(error) => {
                        let reason = format!("the entry is not usable: {error}");
                        unusable.push(RejectedRoute { hostname, path, reason });
                    }
                }
            }
        }
        Ok(Self { sync, unusable })
    }
}

/// An entry with each of its paths by itself, so that one that is none does not take the others along.
struct SinglePaths {
    /// Without rules, then with one.
    entry: Value,
    /// The first has no paths: those of it that are to come are in `paths`.
    rules: std::vec::IntoIter<Value>,
    rule: Value,
    paths: std::vec::IntoIter<Value>,
    begun: bool,
}

impl SinglePaths {
    fn of(mut entry: Value) -> Self {
        let rules = taken(&mut entry, "rules");
        Self { entry, rules, rule: Value::Null, paths: Vec::new().into_iter(), begun: false }
    }

    /// The entry with one path; the hostname and the path that it is for, as far as it says. An entry without any comes once.
    fn next(&mut self) -> Option<(&Value, String, String)> {
        let path = loop {
            if let Some(path) = self.paths.next() {
                break path;
            }
            match self.rules.next() {
                Some(mut rule) => {
                    self.paths = taken(&mut rule, "paths");
                    self.rule = rule;
                }
                None if self.begun => return None,
                None => {
                    self.begun = true;
                    return Some((&self.entry, text(&self.entry, "ingress_name"), String::new()));
                }
            }
        };
        self.begun = true;
        let (hostname, shown) = (text(&self.rule, "host"), text(&path, "path"));
        if let (Some(rule), Some(entry)) = (self.rule.as_object_mut(), self.entry.as_object_mut()) {
            rule.insert("paths".to_owned(), json!([path]));
            entry.insert("rules".to_owned(), json!([rule]));
        }
        Some((&self.entry, hostname, shown))
    }
}

fn taken(value: &mut Value, field: &str) -> std::vec::IntoIter<Value> {
    match value.get_mut(field).map(Value::take) {
        Some(Value::Array(list)) => list.into_iter(),
        _ => Vec::new().into_iter(),
    }
}

fn text(value: &Value, field: &str) -> String {
    value.get(field).and_then(Value::as_str).unwrap_or_default().chars().take(253).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_that_are_none_do_not_take_the_others_along() {
        let body = json!({"cluster_uuid": "c", "ingresses": [
            {"namespace": "a", "ingress_name": "web", "rules": [{"host": "a.x.com", "paths": [
                {"path": "/", "service_name": "s", "service_port": 80},
                {"path": "/bad", "service_name": "s", "service_port": "http"}]}]},
            {"ingress_name": "nowhere"},
            7,
        ]});
        let asked = Asked::read(body.to_string().as_bytes()).unwrap();
        assert_eq!(asked.sync.routes().map(|route| route.path).collect::<Vec<_>>(), ["/"]);
        let names: Vec<_> = asked.unusable.iter().map(|one| (one.hostname.as_str(), one.path.as_str())).collect();
        assert_eq!(names, [("a.x.com", "/bad"), ("nowhere", ""), ("", "")]);
        assert!(asked.unusable[0].reason.contains("invalid type"), "{}", asked.unusable[0].reason);
        assert!(Asked::read(b"{}").is_err() && Asked::read(b"[]").is_err());
        assert_eq!(Asked::read(br#"{"ingresses":null}"#).unwrap().sync.routes().count(), 0);
    }

    #[test]
    fn an_entry_of_many_paths_that_are_none_is_read_in_no_time_and_answered_in_few_words() {
        let many = vec![json!(1); 200_000];
        let body = json!({"ingresses": [{"namespace": "a", "ingress_name": "web", "rules": [
            {"host": "a.x.com", "paths": many},
            {"host": "b.x.com", "paths": [{"path": "/", "service_name": "s", "service_port": 80}]}]}]});
        let asked = Asked::read(body.to_string().as_bytes()).unwrap();
        assert_eq!((asked.unusable.len(), asked.sync.routes().count()), (MOST_UNUSABLE, 0));
    }

    proptest::proptest! {
        #[test]
        fn no_body_makes_it_panic(text in r#"(?s).{0,60}|\{"ingresses":\[(\{"rules":(\[\{"paths":[\[\]{}0-9"]{0,6}\}\]|[\[\]{}0-9]{0,6})\}|[0-9]),?\]\}"#) {
            let _asked = Asked::read(text.as_bytes());
        }
    }
}
