use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use duplex::Duplex;
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::decode::{Decoded, Decoder};
use crate::error::Error;

/// A body that arrives on a connection somebody else drives: nothing is read from there before it is asked for. Of a
/// server's, it is read by the service, its response, or a task of its own; not by the task that polls `serve` behind its
/// back.
#[derive(Debug, Default)]
pub struct Incoming {
    /// None for an empty body.
    slot: Option<Arc<Slot>>,
    /// Bytes to come, where that is known.
    remaining: Option<u64>,
}

#[derive(Debug, Default)]
struct Slot(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    frame: Option<Result<Frame<Bytes>, Error>>,
    wanted: bool,
    /// Nothing comes after the frame.
    ended: bool,
    /// The reader is gone.
    dropped: bool,
    reader: Option<Waker>,
    /// Set only while the driver sleeps.
    driver: Option<Waker>,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Incoming {
    /// A body of no bytes.
    #[must_use]
    pub fn empty() -> Self {
        Self { slot: None, remaining: Some(0) }
    }
}

impl HttpBody for Incoming {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        let Some(slot) = &this.slot else { return Poll::Ready(None) };
        let mut state = slot.lock();
        if let Some(frame) = state.frame.take() {
            drop(state);
            if let (Ok(frame), Some(remaining)) = (&frame, &mut this.remaining) {
                *remaining = remaining.saturating_sub(frame.data_ref().map_or(0, Bytes::len) as u64);
            }
            return Poll::Ready(Some(frame));
        }
        if state.ended {
            drop(state);
            this.slot = None;
            return Poll::Ready(None);
        }
        state.wanted = true;
        state.reader = Some(cx.waker().clone());
        let driver = state.driver.take();
        drop(state);
        // In the same task the driver is polled next.
        if let Some(driver) = driver.filter(|driver| !driver.will_wake(cx.waker())) {
            driver.wake();
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == Some(0) || self.slot.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.remaining.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(slot) = &self.slot {
            let mut state = slot.lock();
            state.dropped = true;
            let driver = state.driver.take();
            drop(state);
            if let Some(driver) = driver {
                driver.wake();
            }
        }
    }
}

/// The driver's side of an [`Incoming`]. A driver that also polls the reader polls the reader first.
#[derive(Debug)]
pub(crate) struct Feed {
    decoder: Decoder,
    /// None for an empty body, and once it has ended.
    slot: Option<Arc<Slot>>,
}

/// What became of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fed {
    /// All of it was read from the connection.
    Whole,
    /// Its reader does not want the rest.
    Unwanted,
}

impl Feed {
    pub(crate) fn new(decoder: Decoder) -> (Self, Incoming) {
        let slot = (!decoder.is_done()).then(|| Arc::new(Slot::default()));
        let incoming = Incoming { slot: slot.clone(), remaining: decoder.remaining() };
        (Self { decoder, slot }, incoming)
    }

    /// True once the body's reader has asked for something.
    pub(crate) fn is_wanted(&self) -> bool {
        self.slot.as_ref().is_some_and(|slot| slot.lock().wanted)
    }

    /// All of it was read from the connection.
    pub(crate) fn is_whole(&self) -> bool {
        self.decoder.is_done()
    }

    /// Reads from `io` what the reader asks for. While it asks for nothing, a peer that has given up is noticed where
    /// the connection can tell. An error has been given to the reader as far as it concerns it.
    pub(crate) fn poll<T: Duplex>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut T,
        input: &mut Bytes,
    ) -> Poll<Result<Fed, Error>> {
        loop {
            let Some(slot) = &self.slot else { return Poll::Ready(Ok(Fed::Whole)) };
            let mut state = slot.lock();
            if state.dropped {
                return Poll::Ready(Ok(Fed::Unwanted));
            }
            state.driver = Some(cx.waker().clone());
            if !state.wanted {
                drop(state);
                let error = ready!(io.poll_reset(cx));
                self.fail(Error::Incomplete);
                return Poll::Ready(Err(error.into()));
            }
            drop(state);
            match self.decoder.decode(input) {
                Ok(Decoded::Data(data)) => self.give(Frame::data(data)),
                Ok(Decoded::Trailers(trailers)) => self.give(Frame::trailers(trailers)),
                Ok(Decoded::End) => self.finish(),
                Ok(Decoded::Starved) => match ready!(io.poll_chunk(cx)) {
                    Ok(Some(chunk)) => *input = chunk,
                    Ok(None) => match self.decoder.close() {
                        Ok(()) => self.finish(),
                        Err(error) => {
                            self.fail(Error::Incomplete);
                            return Poll::Ready(Err(error));
                        }
                    },
                    Err(error) => {
                        self.fail(Error::Incomplete);
                        return Poll::Ready(Err(error.into()));
                    }
                },
                Err(malformed) => {
                    self.fail(malformed.into());
                    return Poll::Ready(Err(malformed.into()));
                }
            }
        }
    }

    fn give(&mut self, frame: Frame<Bytes>) {
        self.put(Some(Ok(frame)), self.decoder.is_done());
    }

    fn finish(&mut self) {
        self.put(None, true);
    }

    fn fail(&mut self, error: Error) {
        self.put(Some(Err(error)), true);
    }

    fn put(&mut self, frame: Option<Result<Frame<Bytes>, Error>>, ended: bool) {
        let Some(slot) = &self.slot else { return };
        let mut state = slot.lock();
        if frame.is_some() {
            state.frame = frame;
        }
        state.wanted = false;
        state.ended |= ended;
        let reader = state.reader.take();
        drop(state);
        if ended {
            self.slot = None;
        }
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        if !self.decoder.is_done() {
            self.fail(Error::Incomplete);
        }
    }
}
