//! A connection that carries as little at once as it likes.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// As much as may be under way.
const ROOM: usize = 3000;

#[derive(Debug, Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    written: usize,
    ended: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// One direction.
#[derive(Clone, Debug, Default)]
pub struct Wire(Arc<Mutex<Pipe>>);

fn wake(waiting: &mut Option<Waker>) {
    if let Some(waker) = waiting.take() {
        waker.wake();
    }
}

impl Wire {
    /// All that it has carried.
    pub fn written(&self) -> usize {
        self.0.lock().unwrap().written
    }
}

#[derive(Debug)]
pub struct Choppy {
    reads: Wire,
    writes: Wire,
    seed: u64,
}

impl Choppy {
    pub fn pair(seed: u64) -> (Self, Self) {
        let (one, other) = (Wire::default(), Wire::default());
        (
            Self { reads: one.clone(), writes: other.clone(), seed },
            Self { reads: other, writes: one, seed: seed.wrapping_add(1) },
        )
    }

    /// What it writes goes there.
    pub fn wire(&self) -> Wire {
        self.writes.clone()
    }

    /// To read.
    pub fn comes_first(&mut self, bytes: &[u8]) {
        let mut pipe = self.reads.0.lock().unwrap();
        for byte in bytes.iter().rev() {
            pipe.bytes.push_front(*byte);
        }
    }

    /// From 0 to `most`; mostly very little or all.
    fn dice(&mut self, most: usize) -> usize {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let thrown = usize::try_from(self.seed >> 40).unwrap();
        match thrown % 8 {
            0 => 0,
            1..=3 => most.min(1 + thrown / 8 % 7),
            4 => most.min(1 + thrown / 8 % 500),
            _ => most,
        }
    }
}

impl AsyncRead for Choppy {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let part = self.dice(buf.remaining());
        if part == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut pipe = self.reads.0.lock().unwrap();
        if pipe.bytes.is_empty() && !pipe.ended {
            pipe.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let part = part.min(pipe.bytes.len());
        let bytes: Vec<u8> = pipe.bytes.drain(..part).collect();
        buf.put_slice(&bytes);
        wake(&mut pipe.writer);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Choppy {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let part = self.dice(buf.len());
        if part == 0 && !buf.is_empty() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut pipe = self.writes.0.lock().unwrap();
        let part = part.min(ROOM.saturating_sub(pipe.bytes.len()));
        if part == 0 {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        pipe.bytes.extend(&buf[..part]);
        pipe.written += part;
        wake(&mut pipe.reader);
        Poll::Ready(Ok(part))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.dice(1) == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.writes.0.lock().unwrap();
        pipe.ended = true;
        wake(&mut pipe.reader);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Choppy {
    fn drop(&mut self) {
        let mut pipe = self.writes.0.lock().unwrap();
        pipe.ended = true;
        wake(&mut pipe.reader);
    }
}
