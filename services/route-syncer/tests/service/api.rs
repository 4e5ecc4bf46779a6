//! As much of an API server as route-syncer needs: lists, watches, and Events.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::channel::mpsc;
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

#[derive(Clone, Default)]
pub struct Api(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// By the path of their list, then by name.
    objects: BTreeMap<&'static str, BTreeMap<String, Value>>,
    watches: Vec<(String, mpsc::Sender<Bytes>)>,
    events: Vec<Value>,
    version: u64,
}

pub const INGRESSES: &str = "/apis/networking.k8s.io/v1/ingresses";
pub const SERVICES: &str = "/api/v1/services";

impl Api {
    pub fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                Ok::<_, Infallible>(Response::new(api.answer(&parts.method, &parts.uri, &body)))
            }
        });
        Client::new(service, "default")
    }

    pub fn put(&self, list: &'static str, namespace: &str, name: &str, mut object: Value) {
        let mut state = self.state();
        state.version += 1;
        object["metadata"]["namespace"] = json!(namespace);
        object["metadata"]["name"] = json!(name);
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        let known = state.objects.entry(list).or_default().insert(name.to_owned(), object.clone());
        state.say(list, if known.is_some() { "MODIFIED" } else { "ADDED" }, &object);
    }

    pub fn delete(&self, list: &'static str, name: &str) {
        let mut state = self.state();
        state.version += 1;
        let version = json!(state.version.to_string());
        let mut object = state.objects.get_mut(list).unwrap().remove(name).unwrap();
        object["metadata"]["resourceVersion"] = version;
        state.say(list, "DELETED", &object);
    }

    /// Reason and note of each.
    pub fn events(&self) -> Vec<(String, String)> {
        let text = |event: &Value, key: &str| event[key].as_str().unwrap().to_owned();
        self.state().events.iter().map(|event| (text(event, "reason"), text(event, "note"))).collect()
    }

    fn answer(&self, method: &Method, uri: &http::Uri, body: &[u8]) -> UnsyncBoxBody<Bytes, Infallible> {
        let mut state = self.state();
        let (path, query) = (uri.path(), uri.query().unwrap_or_default());
        if *method == Method::POST && path.ends_with("/events") {
            let event: Value = serde_json::from_slice(body).unwrap();
            state.events.push(event.clone());
            return whole(&event);
        }
        if path == "/version" {
            let text = "";
            return whole(&json!({"major": "1", "minor": "36", "gitVersion": "v1.36.0", "gitCommit": text,
                "gitTreeState": text, "buildDate": text, "goVersion": text, "compiler": text, "platform": text}));
        }
        if query.contains("watch=true") {
            let (mut sender, receiver) = mpsc::channel(10_000);
            let from = query.split('&').find_map(|pair| pair.strip_prefix("resourceVersion=")?.parse().ok());
            for object in state.objects.get(path).into_iter().flat_map(BTreeMap::values) {
                if version(object) > from.unwrap_or(0) {
                    sender.try_send(line("ADDED", object)).unwrap();
                }
            }
            state.watches.push((path.to_owned(), sender));
            let frames = receiver.map(|line| Ok(http_body::Frame::data(line)));
            return UnsyncBoxBody::new(StreamBody::new(frames));
        }
        let items: Vec<_> = state.objects.get(path).into_iter().flat_map(BTreeMap::values).collect();
        whole(&json!({"metadata": {"resourceVersion": state.version.to_string()}, "items": items}))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl State {
    fn say(&mut self, list: &str, what: &str, object: &Value) {
        let line = line(what, object);
        self.watches.retain_mut(|(path, to)| path != list || to.try_send(line.clone()).is_ok());
    }
}

fn line(what: &str, object: &Value) -> Bytes {
    Bytes::from(format!("{}\n", json!({"type": what, "object": object})))
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

fn whole(value: &Value) -> UnsyncBoxBody<Bytes, Infallible> {
    UnsyncBoxBody::new(Full::new(Bytes::from(value.to_string())))
}
