//! Where the bus is and what it may hold.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The `bus` section of a service's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Options {
    /// Address of the bus: `nats://host:port`, or `tls://host:port`; no user or password in it.
    pub url: String,
    /// User of the bus; the service's own name when empty and a password file is given. Needs a password file.
    pub user: Option<String>,
    /// File with the user's password; read again at every connection.
    pub password_file: Option<PathBuf>,
    /// File with the CA certificate (PEM) that the bus is verified by; the system's when empty.
    pub ca_file: Option<PathBuf>,
    /// The most bytes that one stream may have buffered here or in flight to here. Streams start with 64 KiB and grow.
    pub stream_window: u32,
    /// The most bytes that all streams together may have buffered here or in flight to here.
    pub buffer_total: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            url: "nats://127.0.0.1:4222".to_owned(),
            user: None,
            password_file: None,
            ca_file: None,
            stream_window: 1024 * 1024,
            buffer_total: 64 * 1024 * 1024,
        }
    }
}

/// Why a bus cannot even be tried.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("bus URL {url:?} is not valid; expected nats://host:port")]
    Url {
        url: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the bus URL must not hold a password; set bus.user and bus.password_file instead")]
    Credentials,
    #[error("bus.user is set, but bus.password_file is not")]
    NoPassword,
    #[error("cannot read {what} {}", path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("bus client")]
    Client(#[source] async_nats::ConnectError),
}
