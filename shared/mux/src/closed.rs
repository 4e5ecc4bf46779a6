use std::{io, sync::Arc, time::Duration};

use deflate::Violation;
use tokio_tungstenite::tungstenite::{
    self,
    error::ProtocolError,
    protocol::frame::{CloseFrame, Utf8Bytes, coding::CloseCode},
};

/// Why a link ended.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Closed {
    #[error("the peer closed the link with code {code}: {reason}")]
    Peer { code: u16, reason: String },
    #[error("closed by this end with code {code}: {reason}")]
    Local { code: u16, reason: &'static str },
    #[error("the connection ended without a closing handshake")]
    Lost,
    #[error("the connection failed")]
    Io(#[source] Arc<io::Error>),
    #[error("no sign of life from the peer for {0:?}")]
    Dead(Duration),
    #[error("the peer broke the protocol: {0}")]
    Protocol(String),
    #[error("the peer sent a text message that is not UTF-8")]
    NotUtf8,
    #[error("the peer sent a message above the limit: {0}")]
    TooBig(String),
    #[error("control messages arrive faster than they are handled")]
    ControlFlood,
    #[error("the task that drives the link was dropped")]
    Dropped,
}

impl Closed {
    /// A short fixed name for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Peer { .. } => "peer",
            Self::Local { .. } => "local",
            Self::Lost => "lost",
            Self::Io(_) => "io",
            Self::Dead(_) => "dead",
            Self::Protocol(_) => "protocol",
            Self::NotUtf8 => "not_utf8",
            Self::TooBig(_) => "too_big",
            Self::ControlFlood => "control_flood",
            Self::Dropped => "dropped",
        }
    }

    /// The close frame that tells the peer, when there is still somebody to tell.
    pub(crate) fn frame(&self) -> Option<CloseFrame> {
        let (code, reason) = match self {
            // A close frame has room for 123 bytes of reason.
            Self::Local { code, reason } => {
                (CloseCode::from(*code), reason.get(..reason.floor_char_boundary(123)).unwrap_or_default())
            }
            Self::Protocol(_) => (CloseCode::Protocol, "protocol error"),
            Self::NotUtf8 => (CloseCode::Invalid, "text is not UTF-8"),
            Self::TooBig(_) => (CloseCode::Size, "message too big"),
            Self::ControlFlood => (CloseCode::Policy, "too many control messages"),
            Self::Peer { .. } | Self::Lost | Self::Io(_) | Self::Dead(_) | Self::Dropped => return None,
        };
        Some(CloseFrame { code, reason: Utf8Bytes::from_static(reason) })
    }

    /// The layer that unpacks messages has no other way to say what the peer does.
    fn of_connection(error: io::Error) -> Self {
        match error.get_ref().and_then(|source| source.downcast_ref()) {
            Some(violation @ Violation::TooBig { .. }) => Self::TooBig(violation.to_string()),
            Some(violation) => Self::Protocol(Violation::to_string(violation)),
            None => Self::Io(Arc::new(error)),
        }
    }

    pub(crate) fn by_peer(frame: Option<CloseFrame>) -> Self {
        match frame {
            Some(frame) => Self::Peer { code: frame.code.into(), reason: frame.reason.as_str().to_owned() },
            None => Self::Peer { code: CloseCode::Status.into(), reason: String::new() },
        }
    }
}

impl From<tungstenite::Error> for Closed {
    fn from(error: tungstenite::Error) -> Self {
        match error {
            tungstenite::Error::Io(error) => Self::of_connection(error),
            tungstenite::Error::Capacity(error) => Self::TooBig(error.to_string()),
            tungstenite::Error::Utf8(_) => Self::NotUtf8,
            tungstenite::Error::ConnectionClosed
            | tungstenite::Error::AlreadyClosed
            | tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Self::Lost,
            error => Self::Protocol(error.to_string()),
        }
    }
}

/// Why a stream could not be opened.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenError {
    #[error("the link has its maximum of {0} streams open")]
    TooManyStreams(usize),
    #[error("streams are not negotiated on this link yet")]
    NotStarted,
    #[error("the peer takes no new streams")]
    GoingAway,
    #[error("the link is closed")]
    Closed(#[source] Closed),
}
