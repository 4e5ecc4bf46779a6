//! Logs go to stderr, one event per line: standard output belongs to commands that print a result.

use std::io::{self, IsTerminal};

use serde::{Deserialize, Deserializer, de};
use tracing_subscriber::{Layer, Registry, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{LogFormat, Logging};

/// Takes over the process's logging. A second call (a test's second process in one) leaves the first in place.
pub(crate) fn install(logging: &Logging) {
    let filter: Targets = logging.level.parse().unwrap_or_else(|_| Targets::new().with_default(tracing::Level::INFO));
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

pub(crate) fn deserialize_level<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let level = String::deserialize(deserializer)?;
    level.parse::<Targets>().map_err(|e| de::Error::custom(format_args!("{level:?} is not a log level: {e}")))?;
    Ok(level)
}
