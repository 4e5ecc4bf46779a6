use std::net::{Ipv4Addr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{Duration, logs};

/// What of `shutdown_timeout` is left for closing connections once draining is over.
const CLOSING: std::time::Duration = std::time::Duration::from_secs(5);

/// The settings of one process.
///
/// A service's own struct derives `Serialize`, `Deserialize`, `JsonSchema`, carries `#[serde(default)]` on every level
/// and has [`Common`] as `#[serde(flatten)] common: Common`. Doc comments are the reference documentation: `--help`
/// prints them. Unknown keys need no attribute, [`crate::load`] refuses them. A secret's field is
/// `#[schemars(with = "Option<runtime::SecretSchema>")] token: Option<protocol::Secret>`.
pub trait Options: Default + Serialize + DeserializeOwned + JsonSchema {
    /// Further environment names: `(name, key)`, such as `("PIPEOPS_TOKEN", "gateway.token")`. Every key has
    /// `PIPEOPS_` and its path in capitals without being listed; that name wins where both are set.
    const ENV: &'static [(&'static str, &'static str)] = &[];

    fn common(&self) -> &Common;
}

/// What every process can be told.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Common {
    /// What is logged, and how.
    pub logging: Logging,
    /// The HTTP server for probes and metrics.
    pub server: Server,
    /// Where traces go.
    pub telemetry: Telemetry,
    /// Threads that run the service. 1 runs all of it on the main thread, which costs the least memory and the
    /// fewest wake-ups; more is worth it only for a service that is shown to need more than one core.
    #[schemars(range(min = 1, max = 64))]
    pub worker_threads: usize,
    /// How long the process may take to end after SIGTERM, such as "30s". Requests and sessions under way may go on for
    /// 5 s less; what is left then, such as watches, is cut. Kubernetes' terminationGracePeriodSeconds has to be longer.
    pub shutdown_timeout: Duration,
}

impl Default for Common {
    fn default() -> Self {
        Self {
            logging: Logging::default(),
            server: Server::default(),
            telemetry: Telemetry::default(),
            worker_threads: 1,
            shutdown_timeout: Duration::from_secs(15),
        }
    }
}

impl Common {
    /// How long what is under way may go on after SIGTERM: `shutdown_timeout` less what it takes to close everything.
    pub fn drain_timeout(&self) -> std::time::Duration {
        let all = self.shutdown_timeout.get();
        all.saturating_sub(CLOSING.min(all / 2))
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Logging {
    /// The least severe level that is logged (error, warn, info, debug, trace, off), optionally followed by levels of
    /// single modules: "info,hyper=debug".
    #[serde(deserialize_with = "logs::deserialize_level")]
    pub level: String,
    /// "json" for machines, "text" for people.
    pub format: LogFormat,
}

impl Default for Logging {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Json }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Json,
    Text,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Server {
    /// Address of /health, /ready, /version and /metrics.
    #[schemars(with = "String")]
    pub listen: SocketAddr,
}

impl Default for Server {
    fn default() -> Self {
        Self { listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080)) }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Telemetry {
    /// An OTLP/HTTP collector to send traces to, such as "http://otel-collector:4318". Nothing is traced without.
    pub otlp_endpoint: Option<String>,
    /// The share of traces begun here that are recorded, 0 to 1. A trace begun elsewhere is recorded when its
    /// beginner says so.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub sample_ratio: f64,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { otlp_endpoint: None, sample_ratio: 1.0 }
    }
}

/// Stands for a secret in a schema: `--print-schema` marks the key as write-only and no error message repeats its value.
#[derive(Debug)]
pub struct SecretSchema;

impl JsonSchema for SecretSchema {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Secret".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "format": "password", "writeOnly": true })
    }
}
