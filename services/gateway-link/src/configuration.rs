//! What the control plane wishes of this cluster: checked by whoever it concerns, stored, in force, and answered.

use std::time::Duration;

use bus::facts::{CheckMonitoring, CheckProxyPolicy, NoError, Verdict};
use bus::state::{GetConfig, SaveConfig};
use bus::{Bus, Request, RequestError};
use protocol::config::{Forward, Refused};
use protocol::{ClusterConfig, ConfigAck};
use runtime::error_text;
use tokio::sync::{Mutex, watch};

use crate::tunnel::Tunnels;

#[derive(Debug)]
pub struct Configuration {
    bus: Bus,
    tunnels: Tunnels,
    heartbeat: watch::Sender<Option<Duration>>,
    /// One after the other, in the order they came.
    turn: Mutex<()>,
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

    /// Puts `config` in force, as far as the cluster's own settings let it.
    pub async fn apply(&self, config: ClusterConfig) -> ConfigAck {
        let _turn = self.turn.lock().await;
        let mut ack = ConfigAck { revision: config.revision, ..ConfigAck::default() };
        if let Err(invalid) = config.check() {
            ack.refused.push(refused("configuration", invalid.to_string()));
            return ack;
        }
        let mut settings = Vec::new();
        if let Some(policy) = &config.proxy {
            settings.push(("proxy", self.check(&CheckProxyPolicy { policy: policy.clone() }).await));
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
        if let Err(error) = self.bus.request(&SaveConfig { config: config.clone() }).await {
            let reason = format!("it cannot be stored: {error}");
            ack.refused.extend(settings.iter().map(|(setting, _)| refused(setting, reason.clone())));
            return ack;
        }
        self.enforce(&config);
        for (setting, verdict) in settings {
            match verdict {
                Ok(verdict) if verdict.refused.is_empty() => ack.accepted.push(setting.to_owned()),
                Ok(verdict) => ack.refused.extend(verdict.refused),
                Err(reason) => ack.refused.push(refused(setting, reason)),
            }
        }
        ack
    }

    fn enforce(&self, config: &ClusterConfig) {
        self.tunnels.wish(config.tunnels.as_deref().unwrap_or_default());
        self.heartbeat
            .send_if_modified(|interval| std::mem::replace(interval, config.heartbeat_interval()) != *interval);
    }

    fn check_tunnels(&self, forwards: &[Forward]) -> Verdict {
        let refusal = |forward: &Forward| {
            let error = self.tunnels.check(&forward.target).err()?;
            Some(refused(&format!("tunnels[{}]", forward.name), error_text(&error)))
        };
        Verdict { refused: forwards.iter().filter_map(refusal).collect() }
    }

    async fn check<R>(&self, request: &R) -> Result<Verdict, String>
    where
        R: Request<Reply = Verdict, Error = NoError>,
    {
        self.bus.request(request).await.map_err(|error| match error {
            RequestError::NoResponder => format!("no {} runs in this cluster", R::SERVED_BY),
            error => format!("{} does not answer: {error}", R::SERVED_BY),
        })
    }
}

fn refused(setting: &str, reason: String) -> Refused {
    Refused { setting: setting.to_owned(), reason }
}
