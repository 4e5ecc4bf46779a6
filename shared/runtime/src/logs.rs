//! Logs go to stderr, one event per line: standard output belongs to commands that print a result.

use std::io::{self, IsTerminal};

use serde::{Deserialize, Deserializer, de};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Layer, Registry, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{LogFormat, Logging};

/// The exporters report each step of their own; their failures are warnings and errors.
const QUIET: [&str; 3] = ["opentelemetry", "opentelemetry_sdk", "opentelemetry-otlp"];

/// Takes over the process's logging. A second call (a test's second process in one) leaves the first in place.
pub(crate) fn install(logging: &Logging) {
    let filter = filter(&logging.level).unwrap_or_else(|_| Targets::new().with_default(LevelFilter::INFO));
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match logging.format {
        LogFormat::Json => tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_writer(io::stderr)
            .with_filter(filter)
            .boxed(),
        LogFormat::Text => tracing_subscriber::fmt::layer()
            .with_ansi(io::stderr().is_terminal())
            .with_writer(io::stderr)
            .with_filter(filter)
            .boxed(),
    };
    if tracing_subscriber::registry().with(layer).try_init().is_ok() {
        log_panics();
    }
}

/// Without this a panic in a task would be the only line of a JSON log that is not JSON.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("unknown");
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        tracing::error!(message, location, thread = thread.name().unwrap_or("unnamed"), "panic");
    }));
}

/// Reads `LEVEL` or `LEVEL,MODULE=LEVEL,...`. Stricter than `Targets` itself, to which a misspelt level is a module.
fn filter(text: &str) -> Result<Targets, String> {
    let level = |text: &str| {
        text.trim().parse::<LevelFilter>().map_err(|_| {
            format!("{:?} is not a log level; expected error, warn, info, debug, trace or off", text.trim())
        })
    };
    let mut filter = Targets::new().with_default(LevelFilter::INFO);
    filter.extend(QUIET.map(|module| (module.to_owned(), LevelFilter::WARN)));
    for part in text.split(',').filter(|part| !part.trim().is_empty()) {
        match part.split_once('=') {
            Some((module, text)) => filter.extend([(module.trim().to_owned(), level(text)?)]),
            None => filter = filter.with_default(level(part)?),
        }
    }
    Ok(filter)
}

pub(crate) fn deserialize_level<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let level = String::deserialize(deserializer)?;
    filter(&level).map_err(de::Error::custom)?;
    Ok(level)
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn a_level_and_levels_of_modules_are_told_apart() {
        let targets = filter("warn, hyper=debug").unwrap();
        assert!(targets.would_enable("hyper::client", &Level::DEBUG));
        assert!(!targets.would_enable("bus", &Level::INFO));
        assert!(targets.would_enable("bus", &Level::WARN));
    }

    #[test]
    fn exporters_are_heard_only_when_they_fail_or_are_asked() {
        assert!(!filter("debug").unwrap().would_enable("opentelemetry_sdk", &Level::INFO));
        assert!(filter("debug").unwrap().would_enable("opentelemetry_sdk", &Level::WARN));
        assert!(filter("info,opentelemetry_sdk=debug").unwrap().would_enable("opentelemetry_sdk", &Level::DEBUG));
    }

    #[test]
    fn a_misspelt_level_is_refused() {
        assert!(filter("loud").unwrap_err().contains("\"loud\""));
        assert!(filter("info,hyper=loud").is_err());
    }
}
