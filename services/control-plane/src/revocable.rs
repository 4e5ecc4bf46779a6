use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use exchange::{BodyError, BoxError};
use http_body::{Body, Frame, SizeHint};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::auth::TokenRecord;
use crate::events::Events;

/// A response that breaks off once the token it was asked for with is revoked: a watch may otherwise go on for hours.
/// A watch ends, as the API server ends it now and then, when its link is to go.
#[derive(Debug)]
pub struct Revocable<B> {
    body: B,
    token: Arc<TokenRecord>,
    /// Only of a body that has to be waited for.
    revoked: Option<Cancelled>,
    watch: Option<Box<Watched>>,
}

type Cancelled = Pin<Box<WaitForCancellationFutureOwned>>;

#[derive(Debug)]
struct Watched {
    events: Events,
    leaving: CancellationToken,
    left: Option<Cancelled>,
}

#[derive(Debug, thiserror::Error)]
#[error("the token was revoked")]
struct Revoked;

impl<B> Revocable<B> {
    pub fn new(body: B, token: Arc<TokenRecord>) -> Self {
        Self { body, token, revoked: None, watch: None }
    }

    /// Ends between two of these events once `leaving` is cancelled.
    #[must_use]
    pub fn watching(mut self, events: Option<Events>, leaving: &CancellationToken) -> Self {
        self.watch = events.map(|events| Box::new(Watched { events, leaving: leaving.clone(), left: None }));
        self
    }
}

impl Watched {
    /// It is to end, and can. If not, the task is woken when it is to.
    fn ends(&mut self, cx: &mut Context<'_>) -> bool {
        let wait = || Box::pin(self.leaving.clone().cancelled_owned());
        self.events.are_whole() && self.left.get_or_insert_with(wait).as_mut().poll(cx).is_ready()
    }
}

impl<B> Body for Revocable<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if this.watch.as_mut().is_some_and(|watch| watch.ends(cx)) {
            return Poll::Ready(None);
        }
        let frame = Pin::new(&mut this.body).poll_frame(cx);
        if let (Some(watch), Poll::Ready(Some(Ok(frame)))) = (&mut this.watch, &frame)
            && let Some(bytes) = frame.data_ref()
        {
            watch.events.advance(bytes);
        }
        let revoked = match &frame {
            Poll::Pending => {
                let wait = || Box::pin(this.token.revoked().clone().cancelled_owned());
                this.revoked.get_or_insert_with(wait).as_mut().poll(cx).is_ready()
            }
            Poll::Ready(Some(_)) => this.token.revoked().is_cancelled(),
            Poll::Ready(None) => false,
        };
        if revoked {
            return Poll::Ready(Some(Err(BodyError(Revoked.into()))));
        }
        frame.map(|frame| frame.map(|frame| frame.map_err(|error| BodyError(error.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Empty, StreamBody};

    use super::*;
    use crate::auth::{Grant, NewToken};

    fn token() -> Arc<TokenRecord> {
        let user = protocol::User { name: "alice".to_owned(), groups: Vec::new() };
        Arc::new(NewToken::generate(Grant::User { user, clusters: None }).record)
    }

    #[tokio::test]
    async fn a_silent_response_breaks_off_when_its_token_is_revoked() {
        let token = token();
        let silent = StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, BodyError>>());
        let mut body = Revocable::new(silent, Arc::clone(&token));
        let reading = tokio::spawn(async move { body.frame().await });
        tokio::task::yield_now().await;
        token.revoked().cancel();
        let broken = reading.await.unwrap().unwrap().unwrap_err();
        assert_eq!(broken.to_string(), "the token was revoked");
    }

    #[tokio::test]
    async fn a_response_that_never_pauses_breaks_off_as_well() {
        let token = token();
        let busy = StreamBody::new(futures::stream::repeat_with(|| Ok::<_, BodyError>(Frame::data(Bytes::from("x")))));
        let mut body = Revocable::new(busy, Arc::clone(&token));
        assert!(body.frame().await.unwrap().is_ok());
        token.revoked().cancel();
        assert!(body.frame().await.unwrap().is_err());
    }

    #[tokio::test]
    async fn a_watch_ends_between_two_events_when_its_link_is_to_go() {
        let (events, leaving) = (Events::Lines { whole: true }, CancellationToken::new());
        let (sender, receiver) = tokio::sync::mpsc::channel::<&'static str>(4);
        let pieces = futures::stream::unfold(receiver, async |mut receiver| {
            let piece = receiver.recv().await?;
            Some((Ok::<_, BodyError>(Frame::data(Bytes::from(piece))), receiver))
        });
        let body = StreamBody::new(Box::pin(pieces));
        let mut body = Revocable::new(body, token()).watching(Some(events), &leaving);
        sender.send("{}\n{").await.unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "{}\n{");
        leaving.cancel();
        let reading = tokio::spawn(async move { (body.frame().await, body.frame().await.is_none()) });
        sender.send("}\n").await.unwrap();
        let (rest, ended) = reading.await.unwrap();
        assert_eq!(rest.unwrap().unwrap().into_data().unwrap(), "}\n");
        assert!(ended, "though the cluster has not ended it");
    }

    #[tokio::test]
    async fn a_response_that_is_complete_stays_so() {
        let token = token();
        token.revoked().cancel();
        let mut body = Revocable::new(Empty::<Bytes>::new(), token);
        assert!(body.frame().await.is_none());
    }
}
