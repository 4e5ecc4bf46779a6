use mux::Closed;

use super::route::RouteError;
use super::upstream::UpstreamError;

/// Why an exchange ended before it was whole.
#[derive(Debug)]
pub enum Failure {
    /// The control plane is told: what failed, on what, and what to do.
    Said(String),
    /// Nobody waits for it any more.
    Silent,
}

impl Failure {
    pub fn said(error: impl Into<String>) -> Self {
        Self::Said(error.into())
    }
}

impl From<UpstreamError> for Failure {
    fn from(error: UpstreamError) -> Self {
        Self::Said(runtime::error_text(&error))
    }
}

impl From<RouteError> for Failure {
    fn from(error: RouteError) -> Self {
        Self::Said(runtime::error_text(&error))
    }
}

impl From<protocol::message::proxied::ContentError> for Failure {
    fn from(error: protocol::message::proxied::ContentError) -> Self {
        Self::Said(error.to_string())
    }
}

/// There is nobody left to tell.
impl From<Closed> for Failure {
    fn from(_: Closed) -> Self {
        Self::Silent
    }
}
