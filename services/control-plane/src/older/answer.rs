//! An answer as it comes.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use exchange::BodyError;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use mux::Held;
use protocol::message::proxied::WholeBody;

use super::exchange::{Broken, Head, Said, Ticket};
use super::unpack::Unpack;

/// Of what has come, what is given to the connection at once: it holds that without being asked.
const PIECE: usize = 64 * 1024;

/// A response body. Dropped before its end, it ends the exchange.
#[derive(Debug)]
pub struct Body {
    source: Source,
    /// What has come, and its part of the budget.
    rest: Bytes,
    held: Option<Held>,
    /// What its head says is still to be given.
    left: Option<u64>,
}

/// Where more comes from.
#[derive(Debug)]
enum Source {
    Ended,
    Packed(Box<Unpack>),
    /// As the agent sends it.
    Coming(Box<Ticket>),
}

/// The answer that begins with the next message, to a request of this method.
pub async fn of(mut ticket: Ticket, method: &Method, max_unpacked: usize) -> Result<Response<Body>, Broken> {
    let (said, mut held) = ticket.next().await;
    let mut rest = Bytes::new();
    let (head, source) = match said {
        Said::Whole(head, WholeBody::Plain(bytes)) => {
            rest = bytes;
            (head, Source::Ended)
        }
        Said::Whole(head, WholeBody::Gzip(bytes)) => (head, Source::Packed(Box::new(Unpack::new(bytes, max_unpacked)))),
        Said::Head(head) if is_empty(method, head.status) => match ticket.next().await.0 {
            Said::End => (head, Source::Ended),
            Said::Broken(broken) => return Err(broken),
            _ => return Err(Broken::Length),
        },
        Said::Head(head) => (head, Source::Coming(Box::new(ticket))),
        Said::Broken(broken) => return Err(broken),
        Said::Data(_) | Said::Message(..) | Said::End => return Err(Broken::Order),
    };
    let Head { status, mut headers } = head;
    let left = if is_empty(method, status) {
        if !rest.is_empty() {
            return Err(Broken::Length);
        }
        None
    } else {
        let said = length(&headers)?;
        let known = matches!(source, Source::Ended).then_some(rest.len() as u64);
        if known.is_some() && said.is_some() && known != said {
            return Err(Broken::Length);
        }
        if let Some(known) = known {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(known));
        }
        known.or(said)
    };
    if rest.is_empty() && matches!(source, Source::Ended) {
        held = None;
    }
    let mut response = Response::new(Body { source, rest, held, left });
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

/// Whether there is no body whatever the head says.
fn is_empty(method: &Method, status: StatusCode) -> bool {
    *method == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

fn length(headers: &HeaderMap) -> Result<Option<u64>, Broken> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else { return Ok(None) };
    let number = first.to_str().ok().and_then(|text| text.parse().ok());
    if lengths.next().is_some() { Err(Broken::Length) } else { number.map(Some).ok_or(Broken::Length) }
}

impl Body {
    /// All there is.
    pub fn whole(bytes: Bytes) -> Self {
        let left = Some(bytes.len() as u64);
        Self { source: Source::Ended, rest: bytes, held: None, left }
    }

    /// More in `rest`; false: there is no more.
    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Broken>> {
        while self.rest.is_empty() {
            match &mut self.source {
                Source::Ended => return Poll::Ready(Ok(false)),
                Source::Packed(unpack) => match unpack.next()? {
                    Some(bytes) => self.rest = bytes,
                    None => self.source = Source::Ended,
                },
                Source::Coming(ticket) => {
                    self.held = None;
                    let (said, held) = ready!(ticket.poll_next(cx));
                    match said {
                        Said::Data(bytes) => (self.rest, self.held) = (bytes, held),
                        Said::End => self.source = Source::Ended,
                        Said::Broken(broken) => return Poll::Ready(Err(broken)),
                        Said::Head(_) | Said::Whole(..) | Said::Message(..) => return Poll::Ready(Err(Broken::Order)),
                    }
                }
            }
        }
        Poll::Ready(Ok(true))
    }

    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Broken>> {
        if !ready!(self.fill(cx))? {
            return Poll::Ready(if self.left.is_none_or(|left| left == 0) { Ok(None) } else { Err(Broken::Length) });
        }
        let piece = self.rest.split_to(PIECE.min(self.rest.len()));
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(piece.len() as u64).ok_or(Broken::Length)?;
        }
        Poll::Ready(Ok(Some(piece)))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let next = ready!(self.next(cx));
        if !matches!(next, Ok(Some(_))) {
            // Nothing comes behind it.
            (self.source, self.rest, self.held) = (Source::Ended, Bytes::new(), None);
        }
        let frame = next.map_err(|broken| BodyError(broken.into())).transpose();
        Poll::Ready(frame.map(|bytes| bytes.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.source, Source::Ended) && self.rest.is_empty() && self.left.is_none_or(|left| left == 0)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
