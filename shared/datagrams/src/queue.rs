use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;

/// What each datagram counts beside its bytes.
const COST: usize = 64;

thread_local! {
    /// Larger than any datagram; what came is copied to its size, so that idle sessions hold no buffer.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; 64 * 1024].into());
}

/// Datagrams that wait; when there are too many, the oldest goes: it is the least worth.
#[derive(Debug)]
pub struct DatagramQueue {
    datagrams: VecDeque<Bytes>,
    bytes: usize,
    limit: usize,
}

impl DatagramQueue {
    pub fn new(limit: usize) -> Self {
        Self { datagrams: VecDeque::new(), bytes: 0, limit }
    }

    /// How many others were dropped for it. It stays itself, however large.
    pub fn push(&mut self, datagram: Bytes) -> usize {
        let mut dropped = 0;
        self.bytes += datagram.len() + COST;
        self.datagrams.push_back(datagram);
        while self.bytes > self.limit && self.datagrams.len() > 1 {
            self.pop();
            dropped += 1;
        }
        dropped
    }

    pub fn pop(&mut self) -> Option<Bytes> {
        let datagram = self.datagrams.pop_front()?;
        self.bytes -= datagram.len() + COST;
        Some(datagram)
    }

    /// The next one, which stays.
    pub fn front(&self) -> Option<&Bytes> {
        self.datagrams.front()
    }

    pub fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }
}

/// The next datagram from the Service.
pub fn poll_recv(socket: &UdpSocket, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
    BUFFER.with_borrow_mut(|buffer| {
        let mut read = ReadBuf::new(buffer);
        ready!(socket.poll_recv(cx, &mut read))?;
        Poll::Ready(Ok(Bytes::copy_from_slice(read.filled())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_when_there_are_too_many() {
        let mut queue = DatagramQueue::new(2 * (COST + 10));
        assert_eq!(queue.push(Bytes::from_static(&[1; 10])), 0);
        assert_eq!(queue.push(Bytes::from_static(&[2; 10])), 0);
        assert_eq!(queue.push(Bytes::from_static(&[3; 10])), 1);
        assert_eq!(queue.push(Bytes::from_static(&[4; 1000])), 2);
        assert_eq!(queue.pop(), Some(Bytes::from_static(&[4; 1000])));
        assert!(queue.is_empty() && queue.pop().is_none());
        assert_eq!(queue.bytes, 0);
    }
}
