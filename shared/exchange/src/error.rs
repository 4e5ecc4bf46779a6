use std::io;

use http::StatusCode;

use crate::{BoxError, MAX_HEADERS};

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the connection ended in the middle of a message")]
    Incomplete,
    #[error("the connection broke")]
    Io(#[from] io::Error),
    #[error("malformed message: {0}")]
    Malformed(Malformed),
    #[error("the body being sent broke off")]
    Body(#[source] BoxError),
    /// The client closed its connection before it had its response.
    #[error("the client went away")]
    Gone,
    /// A request did not come within the time it has.
    #[error("no complete request in time")]
    Timeout,
}

impl From<Malformed> for Error {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("the head is too large")]
    LargeHead,
    #[error("more than {MAX_HEADERS} headers")]
    ManyHeaders,
    #[error("the head is not that of an HTTP/1.1 message ({0})")]
    Head(&'static str),
    #[error("its length is given in two ways")]
    TwoLengths,
    #[error("its length is not a number")]
    Length,
    #[error("transfer coding other than chunked")]
    Coding,
    #[error("a chunk without a proper size")]
    Chunk,
    #[error("trailers that cannot be read")]
    Trailers,
    #[error("the body is not as long as its head says")]
    OtherLength,
    #[error("not exactly one host")]
    Host,
    #[error("a switch of protocols that was not asked for")]
    Switch,
    #[error("more interim responses than anybody needs")]
    Interim,
}

impl Malformed {
    /// What a request like this is answered with.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::LargeHead | Self::ManyHeaders => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Coding => StatusCode::NOT_IMPLEMENTED,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}
