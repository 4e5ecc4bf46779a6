use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// Whether this process works, as the sum of named conditions. Cheap to clone.
///
/// The process is ready when all conditions are. Without any it is still on its way to the first.
#[derive(Debug, Clone, Default)]
pub struct Health {
    state: Arc<Mutex<State>>,
}

/// One thing that has to hold for the process to be ready, such as "bus". Clones stand for the same condition.
#[derive(Debug, Clone)]
pub struct Condition {
    name: &'static str,
    health: Health,
}

#[derive(Debug, Default)]
struct State {
    conditions: Vec<ConditionReport>,
    stopping: bool,
}

/// The body of `/ready`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    pub ready: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stopping: bool,
    pub conditions: Vec<ConditionReport>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct ConditionReport {
    name: &'static str,
    ready: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
}

impl Health {
    /// The condition of that name: a new one starts as not ready for the reason "starting", a known one is returned as
    /// it is.
    #[must_use]
    pub fn condition(&self, name: &'static str) -> Condition {
        let mut state = self.lock();
        if !state.conditions.iter().any(|c| c.name == name) {
            state.conditions.push(ConditionReport { name, ready: false, reason: "starting".to_owned() });
        }
        Condition { name, health: self.clone() }
    }

    /// True while every condition is ready and the process has not been asked to stop.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.lock().is_ready()
    }

    /// What keeps the process from being ready, as `condition: reason`, in the order the conditions were named.
    #[must_use]
    pub fn not_ready(&self) -> Vec<String> {
        let state = self.lock();
        let missing = state.conditions.iter().filter(|c| !c.ready).map(|c| format!("{}: {}", c.name, c.reason));
        missing.chain(state.stopping.then(|| "stopping".to_owned())).collect()
    }

    pub(crate) fn report(&self) -> Report {
        let state = self.lock();
        Report { ready: state.is_ready(), stopping: state.stopping, conditions: state.conditions.clone() }
    }

    /// From here on the process is not ready, so that no new work is sent to it.
    pub(crate) fn stopping(&self) {
        self.lock().stopping = true;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Condition {
    pub fn ready(&self) {
        self.change(true, String::new());
    }

    /// `reason` is for people: `/ready` shows it and the log says it once per change.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.change(false, reason.into());
    }

    /// Ready, or not for the reason given.
    pub fn set(&self, state: Result<(), String>) {
        match state {
            Ok(()) => self.ready(),
            Err(reason) => self.not_ready(reason),
        }
    }

    fn change(&self, ready: bool, reason: String) {
        let mut state = self.health.lock();
        let Some(condition) = state.conditions.iter_mut().find(|c| c.name == self.name) else { return };
        if condition.ready == ready && condition.reason == reason {
            return;
        }
        let flipped = condition.ready != ready;
        condition.ready = ready;
        condition.reason.clone_from(&reason);
        drop(state);
        match (ready, flipped) {
            (true, _) => tracing::info!(condition = self.name, "ready"),
            (false, true) => tracing::warn!(condition = self.name, reason, "not ready"),
            (false, false) => tracing::info!(condition = self.name, reason, "still not ready"),
        }
    }
}

impl State {
    fn is_ready(&self) -> bool {
        !self.stopping && !self.conditions.is_empty() && self.conditions.iter().all(|c| c.ready)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ready_once_it_has_conditions_and_all_are() {
        let health = Health::default();
        assert!(!health.is_ready(), "before it has said what it needs");
        let (bus, link) = (health.condition("bus"), health.condition("link"));
        bus.ready();
        assert!(!health.is_ready());
        assert_eq!(health.not_ready(), ["link: starting"]);
        link.ready();
        assert!(health.is_ready() && health.not_ready().is_empty());
        health.stopping();
        assert_eq!(health.not_ready(), ["stopping"]);
    }
}
