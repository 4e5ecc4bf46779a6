use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use duplex::Duplex;
use tokio::io::AsyncWrite;

/// A stream whose peer is the test.
#[derive(Clone, Default)]
pub struct Scripted(Arc<Mutex<Script>>);

#[derive(Default)]
pub struct Script {
    pub chunks: VecDeque<Bytes>,
    /// The peer has finished.
    pub ended: bool,
    /// The peer takes nothing.
    pub stuck: bool,
    /// Writes fail, and nothing else.
    pub shut: bool,
    reset: bool,
    wakers: Vec<Waker>,
    written: usize,
}

impl Scripted {
    pub fn with(set: impl FnOnce(&mut Script)) -> Self {
        let scripted = Self::default();
        scripted.change(set);
        scripted
    }

    pub fn change(&self, set: impl FnOnce(&mut Script)) {
        let mut script = self.0.lock().unwrap();
        set(&mut script);
        for waker in script.wakers.drain(..) {
            waker.wake();
        }
    }

    pub fn reset(&self) {
        self.change(|script| script.reset = true);
    }

    pub fn written(&self) -> usize {
        self.0.lock().unwrap().written
    }

    fn poll<T>(
        &self,
        cx: &Context<'_>,
        poll: impl FnOnce(&mut Script) -> Option<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let mut script = self.0.lock().unwrap();
        if script.reset {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        }
        if let Some(ready) = poll(&mut script) {
            return Poll::Ready(ready);
        }
        script.wakers.push(cx.waker().clone());
        Poll::Pending
    }
}

impl Duplex for Scripted {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        self.poll(cx, |script| match script.chunks.pop_front() {
            Some(chunk) => Some(Ok(Some(chunk))),
            None => script.ended.then_some(Ok(None)),
        })
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match self.poll(cx, |_| None::<io::Result<()>>) {
            Poll::Ready(Err(error)) => Poll::Ready(error),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncWrite for Scripted {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll(cx, |script| {
            if script.shut {
                return Some(Err(ErrorKind::BrokenPipe.into()));
            }
            if script.stuck {
                return None;
            }
            script.written += buf.len();
            Some(Ok(buf.len()))
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(cx, |_| Some(Ok(())))
    }
}
