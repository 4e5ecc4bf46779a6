//! What the control plane wishes of this cluster: stored, in force, and answered by whoever it concerns; answered anew when
//! what they say changes.

use std::sync::Arc;
use std::time::Duration;

use bus::facts::{CheckMonitoring, CheckProxyPolicy, NoError, Verdict};
use bus::state::{CONFIG_INTERVAL, GetConfig, SaveConfig};
use bus::{Bus, Request, RequestError};
use mux::Link;
use protocol::config::{Forward, Refused};
use protocol::{AgentMessage, ClusterConfig, ConfigAck};
use runtime::error_text;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep};

use crate::tunnel::Tunnels;

/// How soon it is seen that those whom it concerns come, go, or answer otherwise.
const RECHECK: Duration = Duration::from_secs(5);
/// The same while some have yet to put it in force,
const AGAIN: Duration = Duration::from_millis(250);
/// and after how long it is answered that they have not.
const PATIENCE: Duration = Duration::from_secs(10);

/// What one link's control plane wishes; only the last counts.
pub type Wishes = watch::Receiver<Arc<ClusterConfig>>;

#[derive(Debug)]
pub struct Configuration {
    bus: Bus,
    tunnels: Tunnels,
    heartbeat: watch::Sender<Option<Duration>>,
    /// One after the other, in the order they came.
    turn: Mutex<()>,
}

/// How a configuration stands.
#[derive(Debug)]
struct Standing {
    ack: ConfigAck,
    /// It is about to be otherwise, or not really known.
    unsettled: bool,
}

/// Why a setting is not judged.
#[derive(Debug)]
enum Unjudged {
    Nobody(String),
    NoAnswer(String),
}

/// What is answered over one link.
#[derive(Debug)]
struct Answers {
    link: Link,
    last: Option<ConfigAck>,
}

impl Answers {
    /// Says it, unless it is what was said last.
    async fn say(&mut self, ack: ConfigAck) {
        if self.last.as_ref() == Some(&ack) {
            return;
        }
        let refused: Vec<_> = ack.refused.iter().map(|r| format!("{}: {}", r.setting, r.reason)).collect();
        tracing::info!(revision = ack.revision, accepted = ?ack.accepted, ?refused, "configured by the control plane");
        self.last = Some(ack.clone());
        let _gone = self.link.send(AgentMessage::ConfigAck(ack).encode(None)).await;
    }
}

impl Configuration {
    pub fn new(bus: Bus, tunnels: Tunnels) -> Self {
        Self { bus, tunnels, heartbeat: watch::Sender::default(), turn: Mutex::default() }
    }

    /// The interval of heartbeats that the control plane wishes for.
    pub fn heartbeat(&self) -> watch::Receiver<Option<Duration>> {
        self.heartbeat.subscribe()
    }

    /// What was in force before this process began.
    pub async fn restore(&self) {
        match self.bus.request(&GetConfig {}).await {
            Ok(stored) => self.enforce(&stored.config.unwrap_or_default()),
            Err(error) => tracing::warn!(%error, "the stored configuration is not known: going by the settings"),
        }
    }

    /// Puts each new wish in force, as far as the cluster's own settings let it, and answers: once it is, and again whenever
    /// that changes. Returns when there are no more wishes.
    pub async fn follow(&self, mut wishes: Wishes, link: Link) {
        let mut answers = Answers { link, last: None };
        let mut more = wishes.changed().await;
        while more.is_ok() {
            let config = wishes.borrow_and_update().clone();
            // Not to be ended half-way: the next could be stored before it.
            let stored = self.store(&config).await;
            let answering = async {
                if let Err(refused) = stored {
                    let ack = ConfigAck { revision: config.revision, refused: vec![refused], ..ConfigAck::default() };
                    answers.say(ack).await;
                    sleep(RECHECK).await;
                } else {
                    self.answer(&config, &mut answers).await;
                }
            };
            tokio::select! {
                () = answering => {}
                changed = wishes.changed() => {
                    more = changed;
                    answers.last = None;
                }
            }
        }
    }

    async fn store(&self, config: &ClusterConfig) -> Result<(), Refused> {
        let _turn = self.turn.lock().await;
        let refusal = |reason| refused("configuration", reason);
        config.check().map_err(|invalid| refusal(invalid.to_string()))?;
        let stored = self.bus.request(&SaveConfig { config: config.clone() }).await;
        stored.map_err(|error| refusal(format!("it cannot be stored: {error}")))?;
        self.enforce(config);
        Ok(())
    }

    /// Answers what has been stored just now. Never returns.
    async fn answer(&self, config: &ClusterConfig, answers: &mut Answers) {
        let stored = Instant::now();
        let mut unsettled = None;
        loop {
            let standing = self.standing(config, stored).await;
            let since = if standing.unsettled { Some(*unsettled.get_or_insert_with(Instant::now)) } else { None };
            unsettled = since;
            if since.is_some_and(|since| since.elapsed() < PATIENCE) {
                sleep(AGAIN).await;
                continue;
            }
            answers.say(standing.ack).await;
            sleep(RECHECK).await;
        }
    }

    async fn standing(&self, config: &ClusterConfig, stored: Instant) -> Standing {
        let mut settings = Vec::new();
        if let Some(policy) = &config.proxy {
            let verdict = self.check(&CheckProxyPolicy { policy: policy.clone() }).await;
            // One of them answers; before this time others may not have asked.
            let early = stored.elapsed() < CONFIG_INTERVAL;
            settings.push(("proxy", verdict.map(|verdict| Verdict { pending: verdict.pending || early, ..verdict })));
        }
        if let Some(monitoring) = &config.monitoring {
            settings.push(("monitoring", self.check(&CheckMonitoring { monitoring: monitoring.clone() }).await));
        }
        if let Some(forwards) = &config.tunnels {
            settings.push(("tunnels", Ok(self.check_tunnels(forwards))));
        }
        if config.heartbeat_interval_seconds.is_some() {
            settings.push(("heartbeat_interval_seconds", Ok(Verdict::default())));
        }
        let mut ack = ConfigAck { revision: config.revision, ..ConfigAck::default() };
        let mut unsettled = false;
        for (setting, verdict) in settings {
            unsettled |= matches!(&verdict, Ok(Verdict { pending: true, .. }) | Err(Unjudged::NoAnswer(_)));
            match verdict {
                Ok(Verdict { pending: true, .. }) => {
                    ack.refused.push(refused(setting, "it is not in force yet".to_owned()));
                }
                Ok(verdict) if verdict.refused.is_empty() => ack.accepted.push(setting.to_owned()),
                Ok(verdict) => ack.refused.extend(verdict.refused),
                Err(Unjudged::Nobody(reason) | Unjudged::NoAnswer(reason)) => {
                    ack.refused.push(refused(setting, reason))
                }
            }
        }
        Standing { ack, unsettled }
    }

    fn enforce(&self, config: &ClusterConfig) {
        self.tunnels.wish(config.tunnels.as_deref().unwrap_or_default());
        self.heartbeat
            .send_if_modified(|interval| std::mem::replace(interval, config.heartbeat_interval()) != *interval);
    }

    fn check_tunnels(&self, forwards: &[Forward]) -> Verdict {
        let refusal = |forward: &Forward| {
            let error = self.tunnels.check(forward.kind(), &forward.target).err()?;
            Some(refused(&format!("tunnels[{}]", forward.name), error_text(&error)))
        };
        Verdict { refused: forwards.iter().filter_map(refusal).collect(), ..Verdict::default() }
    }

    async fn check<R>(&self, request: &R) -> Result<Verdict, Unjudged>
    where
        R: Request<Reply = Verdict, Error = NoError>,
    {
        self.bus.request(request).await.map_err(|error| match error {
            RequestError::NoResponder => Unjudged::Nobody(format!("no {} runs in this cluster", R::SERVED_BY)),
            error => Unjudged::NoAnswer(format!("{} does not answer: {error}", R::SERVED_BY)),
        })
    }
}

fn refused(setting: &str, reason: String) -> Refused {
    Refused { setting: setting.to_owned(), reason }
}
