//! The one answer that this hop gives itself: it speaks no HTTP otherwise, but a request that found no executor must
//! reach the user as a `Status`, not as a bare close.

use std::io;
use std::time::Duration;

use bus::OpenError;
use http::HeaderValue;
use mux::MuxStream;
use protocol::Status;
use protocol::identity::NO_ANSWER;
use protocol::status::shows_no_status;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

/// How long the rest of a refused request may take to end.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// What a `kube` stream was to reach.
pub const API_SERVER: &str = "the cluster's API server";

/// Answers the request that waits on the stream for `to` and begins with `first`.
pub async fn refuse(mut stream: MuxStream, to: &str, error: &OpenError, first: &[u8]) -> io::Result<()> {
    stream.write_all(&answer(to, error, asks_what_shows_no_status(first))).await?;
    stream.shutdown().await?;
    // The rest of the request is read and dropped, so that the answer is not overtaken by a reset.
    let drained = timeout(DRAIN_TIMEOUT, async {
        while stream.chunk().await?.is_some() {}
        Ok(())
    })
    .await;
    drained.unwrap_or(Ok(()))
}

/// `unread`: the client shows nobody the body.
fn answer(to: &str, error: &OpenError, unread: bool) -> Vec<u8> {
    let (mut head, body) = status(to, error).to_response(unread).into_parts();
    if to != API_SERVER {
        head.headers.insert(NO_ANSWER, HeaderValue::from_static("true"));
    }
    let length = body.len();
    let mut answer =
        format!("HTTP/1.1 {}\r\ncontent-length: {length}\r\nconnection: close\r\n", head.status).into_bytes();
    for (name, value) in &head.headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            answer.extend_from_slice(part);
        }
    }
    answer.extend_from_slice(b"\r\n");
    answer.extend_from_slice(&body);
    answer
}

/// Only of a request that no executor can have begun may it be said that it was not.
pub fn status(to: &str, error: &OpenError) -> Status {
    match error {
        OpenError::NoInstance => {
            Status::unavailable(format!("the request did not reach {to}: no proxy-executor is running in the cluster"))
        }
        OpenError::Timeout => Status::timeout(
            "no proxy-executor took the request in time; one may do so later: it is not known whether it takes effect",
        ),
        error if error.is_unsent() => Status::unavailable(format!("the request did not reach {to}: {error}")),
        error => Status::bad_gateway(format!("{error}: it is not known whether the request takes effect")),
    }
}

/// Whether the request that begins like this is one whose answer is better given as a warning. The beginning of its
/// first line is all that this hop ever reads of a request, and only once the request is refused.
fn asks_what_shows_no_status(first: &[u8]) -> bool {
    let path = first.strip_prefix(b"GET ").and_then(|rest| rest.split(|byte| matches!(byte, b' ' | b'?')).next());
    path.and_then(|path| std::str::from_utf8(path).ok()).is_some_and(shows_no_status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_for_a_service_is_marked_as_an_answer_of_the_agent() {
        let marked = |to: &str| {
            let answer = answer(to, &OpenError::NoInstance, false);
            String::from_utf8(answer).unwrap().contains("\r\nx-pipeops-no-answer: true\r\n")
        };
        assert!(marked("Service shop/web:80") && !marked(API_SERVER));
    }

    #[test]
    fn questions_about_the_api_itself_are_known_by_their_first_bytes() {
        for first in ["GET /version HTTP/1.1\r\n", "GET /api?timeout=32s HTTP/1.1\r\n", "GET /apis HTTP/1.1"] {
            assert!(asks_what_shows_no_status(first.as_bytes()), "{first}");
        }
        for first in ["GET /api/v1 HTTP/1.1", "POST /api HTTP/1.1", "GET", "", "GET \u{ff} "] {
            assert!(!asks_what_shows_no_status(first.as_bytes()), "{first}");
        }
    }
}
