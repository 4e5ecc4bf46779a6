//! One HTTP request that came as messages, and its answer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bus::BusStream;
use bytes::{Bytes, BytesMut};
use exchange::Reply;
use http::{Request, Response, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use mux::{Budget, Held};
use protocol::message::proxied::{Encoding, Headers, ProxyReply, ResponseChunk, ResponseHead, WholeResponse};
use tokio::time::timeout;

use super::failure::Failure;
use super::inbox::Outlet;
use super::reply::{Form, Replies};
use super::route::Route;
use super::upstream::Upstream;

/// A request's body, as it arrives.
#[derive(Debug)]
pub struct Arriving {
    outlet: Outlet<Bytes>,
    /// Bytes to come, where that is known.
    remaining: Option<u64>,
}

impl Arriving {
    /// `length`: of all of it, where that is known.
    pub fn new(outlet: Outlet<Bytes>, length: Option<u64>) -> Self {
        Self { outlet, remaining: length }
    }
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.outlet.poll_next(cx).map(|piece| {
            let piece = piece?;
            if let Some(remaining) = &mut self.remaining {
                *remaining = remaining.saturating_sub(piece.len() as u64);
            }
            Some(Ok(Frame::data(piece)))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == Some(0) || self.outlet.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        self.remaining.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// How the answer goes back.
#[derive(Clone, Copy, Debug)]
pub enum Mode {
    /// As it comes.
    Streamed,
    /// In one message of so many bytes at most.
    Whole { max: usize },
}

/// Runs a request to the end of its answer. `limit`: of the time to the answer's beginning.
pub async fn run(
    upstream: &Upstream,
    route: &Route,
    request: Request<Arriving>,
    limit: Duration,
    mode: Mode,
    budget: &Arc<Budget>,
    replies: &Replies,
) -> Result<(), Failure> {
    let answered = timeout(limit, upstream.send(request, route, replies.id())).await;
    let late = |_| Failure::said(format!("no answer from {} within {:.1} s", route.name(), limit.as_secs_f32()));
    match answered.map_err(late)?? {
        Reply::Response(response) => answer(response, route, mode, budget, replies).await,
        Reply::Upgraded(..) => Err(Failure::said(format!("{} switched protocols unasked", route.name()))),
    }
}

/// Sends an answer back.
pub async fn answer(
    response: Response<exchange::Body<BusStream>>,
    route: &Route,
    mode: Mode,
    budget: &Arc<Budget>,
    replies: &Replies,
) -> Result<(), Failure> {
    let (head, mut body) = response.into_parts();
    let (status, headers) = (head.status.as_u16(), Headers::from(&head.headers));
    let cut = |error: exchange::Error| {
        Failure::said(format!("the answer of {} broke off: {}", route.name(), runtime::error_text(&error)))
    };
    match mode {
        Mode::Streamed => {
            // Before it is sent: what is being sent cannot be taken back.
            replies.becomes(Form::Answer);
            replies.send(ProxyReply::Head(ResponseHead { status, headers })).await?;
            while let Some(frame) = body.frame().await {
                if let Ok(data) = frame.map_err(cut)?.into_data() {
                    replies.send_parts(data, |part| ProxyReply::Chunk(ResponseChunk::new(part))).await?;
                }
            }
            replies.send(ProxyReply::End).await?;
        }
        Mode::Whole { max } => {
            let (body, _held) = collect(body, route, max, budget, cut).await?;
            let encoded = (!body.is_empty()).then(|| STANDARD.encode(&body));
            let encoding = encoded.is_some().then_some(Encoding::Base64);
            drop(body);
            let whole = WholeResponse { status, headers, body: encoded, encoding };
            replies.send(ProxyReply::Whole(Box::new(whole))).await?;
        }
    }
    Ok(())
}

/// The whole body, and its part of the budget, which is to be kept until it was sent.
async fn collect(
    mut body: exchange::Body<BusStream>,
    route: &Route,
    max: usize,
    budget: &Arc<Budget>,
    cut: impl Fn(exchange::Error) -> Failure,
) -> Result<(BytesMut, Held), Failure> {
    let mut collected = BytesMut::new();
    let mut held = budget.take(0).ok_or_else(full)?;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(&cut)?.into_data() else { continue };
        if data.len() > max.saturating_sub(collected.len()) {
            return Err(Failure::said(format!(
                "the answer of {} has more than the {max} bytes that are sent in one message (proxied.max_response of \
                 gateway-link); ask for it with supports_response_streaming",
                route.name()
            )));
        }
        if !held.grow(data.len()) {
            return Err(full());
        }
        collected.extend_from_slice(&data);
    }
    Ok((collected, held))
}

/// Nothing more may wait on this link for the moment.
pub fn full() -> Failure {
    Failure::said("as many bytes wait on this link as may (proxied.waiting_total of gateway-link); try again later")
}

/// What the head of a request says about its body's length, taken out of it: the body that comes counts.
pub fn take_length(request: &mut Request<()>) -> Option<u64> {
    let said = request.headers_mut().remove(header::CONTENT_LENGTH);
    said.and_then(|value| value.to_str().ok()?.trim().parse().ok())
}
