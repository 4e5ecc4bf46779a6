//! As much of an API server as state-keeper's tests need.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use kube::Client;
use kube::client::Body;
use runtime::Health;
use serde_json::{Value, json};

use crate::access::Access;
use crate::objects::Objects;
use crate::storage::Storage;
use crate::store::Store;

pub const MAP: &str = "configmaps/pipeops-agent-state";
pub const SECRET: &str = "secrets/pipeops-agent-secrets";

/// As much of an API server as it takes: objects by path, versions, conflicts, and faults on demand.
#[derive(Debug, Default)]
pub struct Server {
    pub objects: BTreeMap<String, Value>,
    version: u64,
    pub writes: usize,
    /// Answers every request with this.
    pub fault: Option<u16>,
    /// Never answers.
    pub silent: bool,
    /// Before each of that many writes, somebody else puts this into the object.
    pub rival: Option<(usize, BTreeMap<String, String>)>,
}

impl Server {
    fn handle(&mut self, method: &Method, path: &str, body: &[u8]) -> (u16, Value) {
        if let Some(code) = self.fault {
            return status(code);
        }
        let prefixes = ["/api/v1/namespaces/ns/", "/apis/coordination.k8s.io/v1/namespaces/ns/"];
        let Some(path) = prefixes.iter().find_map(|prefix| path.strip_prefix(prefix)) else { return status(404) };
        let sent: Value = serde_json::from_slice(body).unwrap_or_default();
        if *method == Method::GET {
            return self.objects.get(path).map_or_else(|| status(404), |object| (200, object.clone()));
        }
        let name = format!("{}/{}", path.split('/').next().unwrap(), sent["metadata"]["name"].as_str().unwrap());
        if let Some((left, data)) = self.rival.take() {
            let data = data.clone();
            self.put(&name, json!({"metadata": {"name": name.split('/').nth(1)}, "data": data}));
            self.rival = (left > 1).then_some((left - 1, data));
        }
        match (method, self.objects.get(&name)) {
            (&Method::POST, Some(_)) => status(409),
            (&Method::PUT, None) => status(404),
            (&Method::PUT, Some(object))
                if object["metadata"]["resourceVersion"] != sent["metadata"]["resourceVersion"] =>
            {
                status(409)
            }
            _ => {
                self.writes += 1;
                self.put(&name, sent);
                (200, self.objects[&name].clone())
            }
        }
    }

    pub fn put(&mut self, path: &str, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(path.to_owned(), object);
    }
}

fn status(code: u16) -> (u16, Value) {
    let reason = StatusCode::from_u16(code).unwrap().canonical_reason().unwrap().replace(' ', "");
    (
        code,
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "as asked", "reason": reason, "code": code}),
    )
}

/// A server, its client and the store under test.
pub struct Lab {
    pub server: Arc<Mutex<Server>>,
    pub health: Health,
    pub store: Store,
}

impl Lab {
    pub fn new() -> Self {
        Self::of(Arc::default(), None)
    }

    pub fn of(server: Arc<Mutex<Server>>, configured: Option<&str>) -> Self {
        let storage = storage(&server);
        let health = Health::default();
        let configured = configured.map(|id| id.parse().unwrap());
        let store = Store::new(storage, &crate::State::default(), configured, &health);
        Self { server, health, store }
    }

    /// The same cluster after a restart of state-keeper.
    pub fn restarted(&self) -> Self {
        Self::of(Arc::clone(&self.server), None)
    }

    pub fn server(&self) -> MutexGuard<'_, Server> {
        self.server.lock().unwrap()
    }

    pub fn data(&self, path: &str) -> Value {
        self.server().objects[path]["data"].clone()
    }
}

/// The storage that a state-keeper of this cluster has.
pub fn storage(server: &Arc<Mutex<Server>>) -> Storage {
    let behind = Arc::clone(server);
    let service = tower::service_fn(move |request: Request<Body>| {
        let behind = Arc::clone(&behind);
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            if behind.lock().unwrap().silent {
                std::future::pending::<()>().await;
            }
            let (code, answer) = behind.lock().unwrap().handle(&parts.method, parts.uri.path(), &body);
            let answer = Full::new(Bytes::from(serde_json::to_vec(&answer).unwrap()));
            Ok::<_, std::io::Error>(Response::builder().status(code).body(answer).unwrap())
        }
    });
    let access = Access::fixed(Client::new(service, "ns"), "ns");
    Storage::Cluster(Box::new(Objects::new(access, Duration::from_millis(200))))
}
