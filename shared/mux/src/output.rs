//! What the streams of a link have to say, on its way to the socket.

use std::{collections::VecDeque, sync::Arc};

use bytes::{Bytes, BytesMut};

use crate::{
    config::OUT_LIMIT,
    frame::{HEADER, Header},
    stream::state::StreamState,
};

/// Bytes beside those for each stream above which the peer asks for more than it takes. Data stays below it.
const FLOOD: usize = 3 * OUT_LIMIT;
/// A stream has at most its acknowledgement, a grant and a reset waiting, as long as the peer keeps to the rules.
const FLOOD_STREAM: usize = 3 * HEADER;

/// So many acknowledgements wait for no company: the peer opens at most 256 streams without.
const LAZY_BYTES: usize = 64 * HEADER;

/// Whole frames only: the driver may take it at any time.
///
/// A stream writes here itself while there is room and nobody waits for it. Otherwise it keeps one frame and gets into
/// line, so that a frame of each goes out in turn.
#[derive(Debug, Default)]
pub(crate) struct Output {
    frames: BytesMut,
    /// There is more in it than acknowledgements of new streams.
    urgent: bool,
    line: VecDeque<Arc<StreamState>>,
    /// How large the last message was: the next is likely to be as large.
    hint: usize,
}

impl Output {
    /// Whether a data frame may be added by a stream that is not in the line.
    pub(crate) fn is_open(&self) -> bool {
        self.has_room() && self.line.is_empty()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.frames.len() < OUT_LIMIT
    }

    pub(crate) fn data<'a>(&mut self, header: Header, body: impl IntoIterator<Item = &'a [u8]>) {
        self.add(header, usize::try_from(header.length).unwrap_or(OUT_LIMIT));
        for part in body {
            self.frames.extend_from_slice(part);
        }
    }

    /// A frame without a body. It is taken in any case; see [`is_flooded`](Self::is_flooded).
    pub(crate) fn signal(&mut self, header: Header) {
        self.add(header, 0);
    }

    /// Says that a stream was taken. It may wait for company.
    pub(crate) fn acknowledge(&mut self, header: Header) {
        let urgent = self.urgent;
        self.add(header, 0);
        self.urgent = urgent || self.frames.len() >= LAZY_BYTES;
    }

    /// The peer makes this end say more than it takes: pings, streams that are opened and reset, and the like.
    pub(crate) fn is_flooded(&self, max_streams: usize) -> bool {
        self.frames.len() > FLOOD + FLOOD_STREAM * max_streams
    }

    fn add(&mut self, header: Header, body: usize) {
        if self.frames.capacity() == 0 {
            self.frames = BytesMut::with_capacity(self.hint.max(HEADER + body));
        }
        self.frames.extend_from_slice(&header.encode());
        self.urgent = true;
    }

    pub(crate) fn wait(&mut self, stream: Arc<StreamState>) {
        self.line.push_back(stream);
        self.urgent = true;
    }

    /// Who is next to add a frame, if there is room for one.
    pub(crate) fn next(&mut self) -> Option<Arc<StreamState>> {
        if self.has_room() { self.line.pop_front() } else { None }
    }

    /// Everything gathered so far, as one message.
    pub(crate) fn take(&mut self) -> Bytes {
        self.urgent = !self.line.is_empty();
        self.hint = self.frames.len();
        std::mem::take(&mut self.frames).freeze()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(crate) fn is_urgent(&self) -> bool {
        self.urgent
    }

    /// What there is waits for no company any more.
    pub(crate) fn hurry(&mut self) {
        self.urgent = !self.is_empty();
    }

    /// Nobody is in the line any more.
    pub(crate) fn end(&mut self) {
        self.line = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_alone_are_not_urgent() {
        let mut output = Output::default();
        output.acknowledge(Header::window(crate::frame::ACK, 2, 0));
        assert!(!output.is_empty() && !output.is_urgent());
        output.signal(Header::window(0, 2, 9));
        assert!(output.is_urgent());
        output.take();
        assert!(!output.is_urgent());
        for stream in 0..64 {
            assert!(!output.is_urgent(), "{stream}");
            output.acknowledge(Header::window(crate::frame::ACK, stream, 0));
        }
        assert!(output.is_urgent());
    }

    #[test]
    fn answers_find_room_while_data_waits_and_a_flood_of_them_is_noticed() {
        let mut output = Output::default();
        while output.is_open() {
            output.data(Header::data(0, 2, 16 * 1024), [&[1; 16 * 1024][..]]);
        }
        assert!(!output.is_flooded(0));
        output.signal(Header::pong(1));
        assert!(output.take().ends_with(&Header::pong(1).encode()));
        assert!((0..20_000).any(|value| {
            output.signal(Header::pong(value));
            output.is_flooded(0)
        }));
    }
}
