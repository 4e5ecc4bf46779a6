use bytes::Bytes;
use exchange::{BodyError, Observed, Observer};
use http_body_util::{Either, Full};
use runtime::Span;

use crate::gathered::Gathered;
use crate::metrics::Active;
use crate::upstream::Transport;

/// What goes back to the caller: our own error, or the API server's response as it arrives.
pub type ResponseBody = Observed<Either<Full<Bytes>, Gathered<exchange::Body<Transport>>>, Watch>;

/// What lasts as long as the response does.
#[derive(Debug)]
pub struct Watch {
    /// None while nothing is recorded, which is the usual case.
    pub spans: Option<Box<Spans>>,
    pub active: Active,
}

/// Both last as long as the response.
#[derive(Debug)]
pub struct Spans {
    pub request: Span,
    /// The call to the API server; none if it was not made.
    pub api: Option<Span>,
}

impl Watch {
    pub fn ours(self, text: Vec<u8>) -> ResponseBody {
        Observed::new(Either::Left(Full::new(text.into())), self)
    }

    pub fn api(self, body: exchange::Body<Transport>) -> ResponseBody {
        Observed::new(Either::Right(Gathered::new(body)), self)
    }
}

impl Observer for Watch {
    fn sent(&mut self, bytes: usize) {
        self.active.sent(bytes);
    }

    fn cut(&mut self, error: &BodyError) {
        tracing::warn!(%error, "response cut off by the API server");
        if let Some(spans) = &mut self.spans {
            for span in std::iter::once(&mut spans.request).chain(&mut spans.api) {
                span.fail("response cut off by the API server");
            }
        }
    }
}
