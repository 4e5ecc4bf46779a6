//! What the control plane answers with.

use std::sync::Arc;

use exchange::{BodyError, Malformed, Observed, Observer};
use http::Response;
use http_body_util::Either;
use mux::MuxStream;
use protocol::{Status, endpoint::split_proxy_path, status::shows_no_status};
use runtime::Span;

use crate::clusters::Place;
use crate::metrics::{Active, Metrics};
use crate::older;
use crate::revocable::Revocable;
use crate::stay::Authenticated;
use crate::subpath::Page;

/// Of our own making, or the cluster's response as it arrives.
pub type ResponseBody = Observed<Either<axum::body::Body, Revocable<Page<ClusterBody>>>, Watch>;

/// As it comes over a stream, or as messages.
pub type ClusterBody = Either<exchange::Body<MuxStream>, older::Body>;

/// What lasts as long as the response does.
#[derive(Debug)]
pub struct Watch {
    pub active: Active,
    /// Present once the request has shown a valid token.
    pub authenticated: Option<Authenticated>,
    /// Among the requests of its cluster.
    pub place: Option<Place>,
    /// None while nothing is recorded, which is the usual case.
    pub span: Option<Box<Span>>,
}

/// To a request that is no proper one.
pub fn refusal(malformed: Malformed) -> Response<Vec<u8>> {
    let status = malformed.status();
    let reason = status.canonical_reason().unwrap_or_default().replace(' ', "");
    let message = format!("the request cannot be understood: {malformed}");
    Status::failure(status.as_u16(), &reason, message).to_response(false)
}

impl Watch {
    pub fn begin(metrics: &Arc<Metrics>) -> Self {
        Self { active: metrics.begin(), authenticated: None, place: None, span: None }
    }

    /// `path` is that of the request.
    pub fn status(self, status: &Status, path: &str) -> Response<ResponseBody> {
        let unread = split_proxy_path(path).is_some_and(|(_, path)| shows_no_status(path));
        self.ours(status.to_response(unread).map(axum::body::Body::from))
    }

    pub fn ours(mut self, response: Response<axum::body::Body>) -> Response<ResponseBody> {
        self.answered(response.status());
        response.map(|body| Observed::new(Either::Left(body), self))
    }

    pub fn proxied(mut self, response: Response<Revocable<Page<ClusterBody>>>) -> Response<ResponseBody> {
        self.answered(response.status());
        response.map(|body| Observed::new(Either::Right(body), self))
    }

    fn answered(&mut self, status: http::StatusCode) {
        self.active.answered(status);
        if let Some(span) = &mut self.span {
            span.set("http.response.status_code", i64::from(status.as_u16()));
            if status.is_server_error() {
                span.fail(status.to_string());
            }
        }
    }
}

impl Observer for Watch {
    fn sent(&mut self, bytes: usize) {
        self.active.sent(bytes);
    }

    fn cut(&mut self, error: &BodyError) {
        tracing::warn!(%error, "response cut off on its way from the cluster");
        if let Some(span) = &mut self.span {
            span.fail("response cut off on its way from the cluster");
        }
    }
}
