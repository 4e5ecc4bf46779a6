//! What every process does the same way: layered configuration, logs, metrics, traces, health and readiness, TLS
//! settings, signals and an ordered shutdown. A binary is `runtime::run("name", version, service)` and nothing else.
//!
//! ```text
//!   defaults < file < environment < flags ──► Options ──┐
//!   SIGTERM, SIGINT ──► Context.shutdown ───────────────┼─► service(Options, Context) ──► exit code
//!   /health /ready /version /metrics ◄── Health, Meter ─┘            spans ──► OTLP, only when configured
//! ```
//!
//! It must not know any service: nothing here depends on a bus, a link or Kubernetes.

mod backoff;
pub mod config;
mod context;
mod error_text;
pub mod files;
mod health;
pub mod instruments;
mod logs;
mod metrics;
mod options;
mod process;
mod server;
pub mod tcp;
mod telemetry;
pub mod tls;
mod trace;
pub mod udp;
mod units;

pub use backoff::Backoff;
pub use config::{Args, ConfigError, load, settings_help};
pub use context::Context;
pub use error_text::error_text;
pub use health::{Condition, Health};
pub use options::{Common, LogFormat, Logging, Options, SecretSchema, Server, Telemetry};
pub use process::{execute, run, run_with};
pub use trace::{Span, SpanKind, Tracer};
pub use units::{ByteSize, Duration, ParseUnitError};
