use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

/// How long a piece may wait for the next one. A timer of a millisecond may take two.
const WAIT: Duration = Duration::from_millis(1);
/// A piece of this size goes on at once.
const LARGE: usize = 8 * 1024;

/// A body whose small pieces go on together when they come close upon each other: each costs every hop a wake-up, and a log
/// of many lines has one for 4 KiB. The first piece after a pause never waits.
#[derive(Debug)]
pub struct Gathered<B: Body> {
    body: B,
    held: BytesMut,
    /// What comes behind what is held.
    after: Option<Result<Frame<Bytes>, B::Error>>,
    /// The last piece went on.
    last: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<B: Body<Data = Bytes> + Unpin> Gathered<B> {
    pub fn new(body: B) -> Self {
        Self { body, held: BytesMut::new(), after: None, last: None, timer: None }
    }

    fn hand_on(&mut self) -> Frame<Bytes> {
        self.last = Some(Instant::now());
        Frame::data(std::mem::take(&mut self.held).freeze())
    }

    /// Whether `piece` is one to be held for the next.
    fn holds(&self, piece: &Bytes) -> bool {
        piece.len() < LARGE && self.last.is_some_and(|last| last.elapsed() < WAIT)
    }

    /// Resolves when what is held has waited long enough.
    fn poll_waited(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let due = self.last.unwrap_or_else(Instant::now) + WAIT;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if timer.deadline() != due {
            timer.as_mut().reset(due);
        }
        timer.as_mut().poll(cx)
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Gathered<B>
where
    B::Error: Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        loop {
            if this.held.len() >= LARGE {
                return Poll::Ready(Some(Ok(this.hand_on())));
            }
            if let Some(after) = this.after.take() {
                if this.held.is_empty() {
                    return Poll::Ready(Some(after));
                }
                this.after = Some(after);
                return Poll::Ready(Some(Ok(this.hand_on())));
            }
            let frame = match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => frame,
                Poll::Ready(Some(Err(error))) => {
                    this.after = Some(Err(error));
                    continue;
                }
                Poll::Ready(None) if this.held.is_empty() => return Poll::Ready(None),
                Poll::Ready(None) => return Poll::Ready(Some(Ok(this.hand_on()))),
                Poll::Pending if this.held.is_empty() => return Poll::Pending,
                Poll::Pending => {
                    ready!(this.poll_waited(cx));
                    return Poll::Ready(Some(Ok(this.hand_on())));
                }
            };
            match frame.into_data() {
                Ok(piece) if this.held.is_empty() && !this.holds(&piece) => {
                    this.last = Some(Instant::now());
                    return Poll::Ready(Some(Ok(Frame::data(piece))));
                }
                Ok(piece) => this.held.extend_from_slice(&piece),
                Err(other) => this.after = Some(Ok(other)),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_empty() && self.after.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let held = self.held.len() as u64;
        let of_body = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(of_body.lower() + held);
        if let Some(upper) = of_body.upper() {
            hint.set_upper(upper + held);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::StreamExt as _;
    use futures::channel::mpsc;
    use http_body_util::{BodyExt as _, StreamBody};
    use tokio::time::{advance, timeout};

    use super::*;

    type Sent = Result<Frame<Bytes>, &'static str>;

    fn piece(bytes: usize) -> Sent {
        Ok(Frame::data(vec![7; bytes].into()))
    }

    fn body() -> (mpsc::Sender<Sent>, Gathered<StreamBody<mpsc::Receiver<Sent>>>) {
        let (sender, receiver) = mpsc::channel(64);
        (sender, Gathered::new(StreamBody::new(receiver)))
    }

    async fn next<B: Body<Data = Bytes> + Unpin>(body: &mut B) -> usize
    where
        B::Error: std::fmt::Debug,
    {
        body.frame().await.unwrap().unwrap().into_data().unwrap().len()
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_after_a_pause_goes_on_at_once_and_what_follows_it_closely_together() {
        let (mut sender, mut body) = body();
        for _ in 0..2 {
            sender.try_send(piece(10)).unwrap();
            assert_eq!(next(&mut body).await, 10);
            for _ in 0..5 {
                sender.try_send(piece(10)).unwrap();
            }
            let began = Instant::now();
            assert_eq!(next(&mut body).await, 50);
            assert!(began.elapsed() <= 2 * WAIT, "{:?}", began.elapsed());
            advance(2 * WAIT).await;
        }
        timeout(10 * WAIT, body.frame()).await.unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn large_pieces_do_not_wait() {
        let (mut sender, mut body) = body();
        for bytes in [10, LARGE, LARGE - 1, 1, LARGE] {
            sender.try_send(piece(bytes)).unwrap();
        }
        let began = Instant::now();
        assert_eq!(next(&mut body).await, 10);
        assert_eq!(next(&mut body).await, LARGE);
        assert_eq!(next(&mut body).await, LARGE);
        assert_eq!(next(&mut body).await, LARGE);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_held_goes_before_the_end_trailers_and_an_error() {
        let trailers: Sent = Ok(Frame::trailers(http::HeaderMap::new()));
        for last in [Some(trailers), Some(Err("broken")), None] {
            let (mut sender, mut body) = body();
            for _ in 0..3 {
                sender.try_send(piece(10)).unwrap();
            }
            let fails = matches!(last, Some(Err(_)));
            let has_trailers = matches!(last, Some(Ok(_)));
            if let Some(last) = last {
                sender.try_send(last).unwrap();
            }
            drop(sender);
            assert_eq!((next(&mut body).await, next(&mut body).await), (10, 20));
            match body.frame().await {
                None => assert!(!fails && !has_trailers),
                Some(Ok(frame)) => assert!(frame.is_trailers() && has_trailers),
                Some(Err(error)) => assert!(fails && error == "broken"),
            }
        }
        let none = futures::stream::empty::<Result<Frame<Bytes>, Infallible>>().boxed();
        assert!(Gathered::new(StreamBody::new(none)).frame().await.is_none());
    }
}
