//! Which Service a stream is for.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A port of a Service, written `namespace/service:port`.
///
/// Both names are DNS labels, so a target can never name anything but a Service of the cluster: no address, no host of
/// another domain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    namespace: Box<str>,
    service: Box<str>,
    port: NonZeroU16,
}

/// Why a text is not a target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTarget {
    #[error("it is not of the form namespace/service:port")]
    Form,
    #[error("its {0} is not a DNS label (1 to 63 of a-z, 0-9 and '-', not at either end)")]
    Label(&'static str),
    #[error("its port is not a number from 1 to 65535")]
    Port,
}

impl Target {
    /// Longest name of a Service or namespace, in bytes.
    pub const MAX_LABEL: usize = 63;

    /// Checks and keeps the three parts.
    ///
    /// # Errors
    /// When a name is not a DNS label, or the port is 0.
    pub fn new(namespace: &str, service: &str, port: u16) -> Result<Self, InvalidTarget> {
        if !is_label(namespace) {
            return Err(InvalidTarget::Label("namespace"));
        }
        if !is_label(service) {
            return Err(InvalidTarget::Label("service"));
        }
        let port = NonZeroU16::new(port).ok_or(InvalidTarget::Port)?;
        Ok(Self { namespace: namespace.into(), service: service.into(), port })
    }

    /// The Service's namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The Service's name.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The Service's port.
    pub fn port(&self) -> NonZeroU16 {
        self.port
    }
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    bytes.len() <= Target::MAX_LABEL
        && bytes.first().is_some_and(plain)
        && bytes.last().is_some_and(plain)
        && bytes.iter().all(|b| plain(b) || *b == b'-')
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.namespace, self.service, self.port)
    }
}

impl FromStr for Target {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, InvalidTarget> {
        let (namespace, rest) = text.split_once('/').ok_or(InvalidTarget::Form)?;
        let (service, port) = rest.split_once(':').ok_or(InvalidTarget::Form)?;
        if port.starts_with('+') {
            return Err(InvalidTarget::Port);
        }
        Self::new(namespace, service, port.parse().map_err(|_| InvalidTarget::Port)?)
    }
}

/// An HTTP server behind a Service: `namespace/service:port`, or `https://namespace/service:port` for one that speaks TLS.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpTarget {
    pub target: Target,
    pub tls: bool,
}

const HTTPS: &str = "https://";

impl fmt::Display for HttpTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls { HTTPS } else { "" })?;
        self.target.fmt(f)
    }
}

impl FromStr for HttpTarget {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, InvalidTarget> {
        let (target, tls) = text.strip_prefix(HTTPS).map_or((text, false), |rest| (rest, true));
        Ok(Self { target: target.parse()?, tls })
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(|e| de::Error::custom(format_args!("target is not valid: {e}")))
    }
}
