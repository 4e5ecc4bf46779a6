//! What `kubectl describe ingress` shows: where clients find it, or why they do not.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::rules::Source;
use crate::sync::{Outcome, Told};

/// The API server takes no more, in bytes.
const LONGEST_NOTE: usize = 1000;
/// Of an object's name in the name of its Events, which has 253 bytes and ends with the time.
const LONGEST_NAME: usize = 230;
const TIMEOUT: Duration = Duration::from_secs(5);
/// After the API server could not be used.
const PAUSE: Duration = Duration::from_secs(5);
const REPORTER: &str = "pipeops.io/route-syncer";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    Published,
    Refused,
    Skipped,
}

impl Reason {
    const ALL: [Self; 3] = [Self::Published, Self::Refused, Self::Skipped];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Published => "RoutePublished",
            Self::Refused => "RouteRefused",
            Self::Skipped => "RouteSkipped",
        }
    }
}

/// Writes them down when they change, as long as somebody tells. The same is not said twice of one Ingress.
pub async fn follow(client: Client, instance: String, mut told: watch::Receiver<Told>) {
    let mut said: HashMap<Source, HashMap<Reason, String>> = HashMap::new();
    while told.changed().await.is_ok() {
        let mut again = true;
        while std::mem::take(&mut again) {
            let now = told.borrow_and_update().clone();
            let sources: BTreeSet<&Source> = now.wished.sources.iter().collect();
            said.retain(|source, _| sources.contains(source));
            for (source, notes) in notes(&now) {
                let before = said.entry(source.clone()).or_default();
                for (reason, note) in notes {
                    let Some(note) = note else {
                        before.remove(&reason);
                        continue;
                    };
                    if before.get(&reason) == Some(&note) {
                        continue;
                    }
                    match write(&client, &instance, &source, reason, &note).await {
                        Ok(()) => drop(before.insert(reason, note)),
                        Err(error) => {
                            tracing::warn!(
                                error,
                                "no Event can be written on Ingress {}/{}",
                                source.namespace,
                                source.name
                            );
                            again = true;
                        }
                    }
                }
                if again {
                    break;
                }
            }
            if again {
                sleep(PAUSE).await;
            }
        }
    }
}

/// What there is to say of one Ingress.
type Notes = Vec<(Reason, Option<String>)>;

/// Of each Ingress what there is to say; what is not known now is not among it, and what is no more is None.
fn notes(told: &Told) -> Vec<(Source, Notes)> {
    let wished = &told.wished;
    let (mut accepted, mut rejected) = (HashMap::new(), HashMap::new());
    if let Outcome::Taken(Some(answer)) = &told.outcome {
        accepted.extend(answer.accepted.iter().map(|route| ((&*route.hostname, &*route.path), &*route.url)));
        rejected.extend(answer.rejected.iter().map(|route| ((&*route.hostname, &*route.path), &*route.reason)));
    }
    let routes: HashMap<_, _> = wished
        .sync
        .ingresses
        .iter()
        .map(|routes| ((&*routes.namespace, &*routes.ingress_name), &routes.rules))
        .collect();
    let of = |source: &Source| {
        let (mut published, mut refused) = (Vec::new(), Vec::new());
        let rules = routes.get(&(&*source.namespace, &*source.name)).map(|rules| rules.as_slice()).unwrap_or_default();
        for (host, path) in rules.iter().flat_map(|rule| rule.paths.iter().map(|path| (&*rule.host, &*path.path))) {
            match &told.outcome {
                Outcome::Unknown => {}
                Outcome::Refused(reason) => refused.push(format!("{host}{path}: {reason}")),
                Outcome::Taken(None) => published.push(format!("https://{host}{path}")),
                Outcome::Taken(Some(_)) => match (accepted.get(&(host, path)), rejected.get(&(host, path))) {
                    (Some(url), _) => published.push((*url).to_owned()),
                    (None, Some(reason)) => refused.push(format!("{host}{path}: {reason}")),
                    (None, None) => refused.push(format!("{host}{path}: the control plane says nothing of it")),
                },
            }
        }
        let skipped = wished.skipped.get(source).into_iter().flatten();
        let skipped = skipped.map(|skipped| format!("{}: {}", skipped.what, skipped.reason)).collect();
        let mut notes = Vec::new();
        for (reason, of_it) in Reason::ALL.into_iter().zip([published, refused, skipped]) {
            if reason == Reason::Skipped || !matches!(told.outcome, Outcome::Unknown) {
                notes.push((reason, joined(of_it, if reason == Reason::Published { ", " } else { "; " })));
            }
        }
        (source.clone(), notes)
    };
    wished.sources.iter().map(of).collect()
}

/// One text of them, of which the API server takes all; None of none.
fn joined(mut parts: Vec<String>, between: &str) -> Option<String> {
    let mut seen = BTreeSet::new();
    parts.retain(|part| seen.insert(part.clone()));
    let mut text = parts.join(between);
    if text.len() > LONGEST_NOTE {
        let end = text.floor_char_boundary(LONGEST_NOTE);
        text.truncate(end);
        text.push_str(" ...");
    }
    Some(text).filter(|text| !text.is_empty())
}

/// What the API server refuses is not tried again: the namespace may be going, or Events are not among this service's rights.
async fn write(client: &Client, instance: &str, source: &Source, reason: Reason, note: &str) -> Result<(), String> {
    let now = Timestamp::now();
    let event = Event {
        metadata: ObjectMeta {
            name: Some(format!("{:.LONGEST_NAME$}.{:x}", source.name, now.as_nanosecond())),
            namespace: Some(source.namespace.clone()),
            ..ObjectMeta::default()
        },
        action: Some("Sync".to_owned()),
        event_time: Some(MicroTime(now)),
        note: Some(note.to_owned()),
        reason: Some(reason.as_str().to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some("networking.k8s.io/v1".to_owned()),
            kind: Some("Ingress".to_owned()),
            name: Some(source.name.clone()),
            namespace: Some(source.namespace.clone()),
            uid: Some(source.uid.clone()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(REPORTER.to_owned()),
        reporting_instance: Some(instance.to_owned()),
        type_: Some(if reason == Reason::Published { "Normal" } else { "Warning" }.to_owned()),
        ..Event::default()
    };
    let api: Api<Event> = Api::namespaced(client.clone(), &source.namespace);
    match timeout(TIMEOUT, api.create(&PostParams::default(), &event)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(kube::Error::Api(status))) if (400..500).contains(&status.code) && status.code != 429 => {
            tracing::warn!(
                error = status.message,
                "an Event on Ingress {}/{} is refused",
                source.namespace,
                source.name
            );
            Ok(())
        }
        Ok(Err(error)) => Err(runtime::error_text(&error)),
        Err(_) => Err(format!("no answer within {} s", TIMEOUT.as_secs())),
    }
}

#[cfg(test)]
#[path = "events/tests.rs"]
mod tests;
