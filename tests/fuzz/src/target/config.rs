//! What a cluster is to be configured as: read, checked, written, and the same again.

use super::kind_of;
use protocol::ClusterConfig;

/// Names of settings.
pub(super) const WORDS: [&str; 18] = [
    "revision",
    "heartbeat_interval_seconds",
    "proxy",
    "read_only",
    "verbs",
    "namespaces",
    "denied_subresources",
    "monitoring",
    "enabled",
    "components",
    "tunnels",
    "name",
    "protocol",
    "tcp",
    "udp",
    "target",
    "default/web:80",
    "idle_timeout_seconds",
];

pub(super) fn check(input: &[u8]) -> Result<String, String> {
    let config: ClusterConfig = match serde_json::from_slice(input) {
        Ok(config) => config,
        Err(error) => return Ok(kind_of(error)),
    };
    let outcome = config.check();
    let text = serde_json::to_string(&config).map_err(|error| format!("it cannot be written: {error}"))?;
    let again: ClusterConfig =
        serde_json::from_str(&text).map_err(|error| format!("{text} cannot be read: {error}"))?;
    if again != config || again.check() != outcome {
        return Err(format!("{config:?} is written as {again:?}"));
    }
    if outcome.is_ok() {
        let seconds = config.heartbeat_interval().map(|interval| interval.as_secs());
        if seconds.is_some_and(|seconds| !(1..=3600).contains(&seconds)) {
            return Err(format!("heartbeats each {seconds:?} s are said to be good"));
        }
        for forward in config.tunnels.iter().flatten() {
            // What the streams of a tunnel are opened with.
            let target: Result<protocol::Target, _> = forward.target.to_string().parse();
            if target.as_ref() != Ok(&forward.target) {
                return Err(format!("the target {} is read as {target:?}", forward.target));
            }
            forward.kind();
        }
    }
    let sections = [
        config.heartbeat_interval_seconds.is_some(),
        config.proxy.is_some(),
        config.monitoring.is_some(),
        config.tunnels.is_some(),
    ];
    Ok(format!("{sections:?} {}", outcome.map_or_else(kind_of, |()| "good".to_owned())))
}
