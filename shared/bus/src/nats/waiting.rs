//! Control frames that could not be sent at once, from where nobody can wait.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_nats::{Client, Subject};
use bytes::Bytes;
use tokio::sync::Notify;

pub(super) type Frame = (Subject, Bytes);

/// At most a few for each stream: a reset, and credit for what its window allowed the peer to send.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    queue: Mutex<Queue>,
    added: Notify,
    cleared: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Frame>,
    /// One was taken and is on its way to the client.
    sending: bool,
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends by `send` if nothing waits, or else after what waits. Not at all unless `is_up`: that is looked at under
    /// the lock, so that nothing comes in behind the [`clear`](Self::clear) of a lost connection.
    pub(super) fn send(&self, frame: Frame, is_up: impl Fn() -> bool, send: impl FnOnce(Frame) -> bool) {
        let mut queue = self.lock();
        if !is_up() || (queue.frames.is_empty() && !queue.sending && send(frame.clone())) {
            return;
        }
        queue.frames.push_back(frame);
        drop(queue);
        self.added.notify_one();
    }

    /// The connection is lost, and with it every stream that these frames are about.
    pub(super) fn clear(&self) {
        self.lock().frames.clear();
        self.cleared.notify_waiters();
    }

    /// The next one, out of the queue: what is queued while it is being sent is not touched.
    fn take(&self) -> Option<Frame> {
        let mut queue = self.lock();
        let next = queue.frames.pop_front();
        queue.sending = next.is_some();
        next
    }

    /// Sends what waits, until the client has ended.
    pub(super) async fn pump(&self, client: &Client) {
        loop {
            // Made before the frame is taken: it then sees every `clear` from there on.
            let cleared = self.cleared.notified();
            let Some((subject, payload)) = self.take() else {
                self.added.notified().await;
                continue;
            };
            tokio::select! {
                biased;
                // It must not go out on the next connection.
                () = cleared => {}
                sent = client.publish(subject, payload) => if sent.is_err() {
                    return;
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(name: &str) -> Frame {
        (Subject::from(name.to_owned()), Bytes::new())
    }

    fn queue(waiting: &Waiting, name: &str) {
        waiting.send(frame(name), || true, |_| false);
    }

    #[test]
    fn a_frame_queued_across_a_reconnect_is_neither_lost_nor_doubled() {
        let waiting = Waiting::default();
        queue(&waiting, "old 1");
        queue(&waiting, "old 2");
        assert_eq!(waiting.take(), Some(frame("old 1")));
        waiting.clear();
        queue(&waiting, "new");
        assert_eq!(waiting.take(), Some(frame("new")));
        assert_eq!(waiting.take(), None);
    }

    #[test]
    fn no_frame_passes_one_that_is_being_sent() {
        let waiting = Waiting::default();
        queue(&waiting, "first");
        assert_eq!(waiting.take(), Some(frame("first")));
        waiting.send(frame("second"), || true, |_| panic!("sent past the first"));
        assert_eq!(waiting.take(), Some(frame("second")));
        assert_eq!(waiting.take(), None);
        let mut sent = Vec::new();
        waiting.send(
            frame("third"),
            || true,
            |frame| {
                sent.push(frame);
                true
            },
        );
        assert_eq!(sent, [frame("third")]);
        assert_eq!(waiting.take(), None);
    }

    #[test]
    fn nothing_is_queued_while_the_connection_is_away() {
        let waiting = Waiting::default();
        waiting.send(frame("late"), || false, |_| panic!("sent without a connection"));
        assert_eq!(waiting.take(), None);
    }
}
