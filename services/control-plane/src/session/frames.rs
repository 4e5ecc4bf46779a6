/// Where the frames of one direction of a WebSocket begin and end (RFC 6455, section 5.2).
#[derive(Clone, Debug, Default)]
pub struct Frames {
    /// The first bytes of a frame, as far as they have come.
    head: [u8; Self::HEAD],
    come: usize,
    /// What is still to come of its payload.
    payload: u64,
    closed: bool,
}

impl Frames {
    /// With the longest length and a mask.
    const HEAD: usize = 14;

    /// The next bytes have gone by.
    pub fn advance(&mut self, mut bytes: &[u8]) {
        loop {
            let skipped = usize::try_from(self.payload).unwrap_or(usize::MAX).min(bytes.len());
            self.payload -= skipped as u64;
            let Some(([byte], rest)) = bytes.get(skipped..).and_then(<[u8]>::split_first_chunk) else { return };
            if let Some(place) = self.head.get_mut(self.come) {
                *place = *byte;
            }
            self.come += 1;
            bytes = rest;
            self.end_head();
        }
    }

    /// Once the head is whole, goes on to its payload.
    fn end_head(&mut self) {
        let [first, second, length @ ..] = self.head;
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        let (extended, payload) = match second & 0x7f {
            126 => (2, u64::from(u16::from_be_bytes([length[0], length[1]]))),
            127 => (8, length.first_chunk().copied().map_or(0, u64::from_be_bytes)),
            short => (0, u64::from(short)),
        };
        if self.come == 2 + extended + mask {
            self.closed |= first & 0x0f == 8;
            self.come = 0;
            self.payload = payload;
        }
    }

    /// How many bytes have to go by at least for the frame under way to end: none between two frames.
    pub fn rest(&self) -> usize {
        if self.come > 0 { 1 } else { usize::try_from(self.payload).unwrap_or(usize::MAX) }
    }

    /// How many of the next bytes are of the frame under way; between two frames, of the one that begins with them.
    pub fn first(&self, bytes: &[u8]) -> usize {
        let mut ahead = self.clone();
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let step = ahead.rest().clamp(1, rest.len());
            ahead.advance(rest.get(..step).unwrap_or(rest));
            at += step;
            if ahead.rest() == 0 {
                break;
            }
        }
        at
    }

    /// Whether a close frame has begun, after which nothing follows.
    pub fn closed(&self) -> bool {
        self.closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: &[u8] = b"\x82\x03abc";
    const EMPTY: &[u8] = b"\x89\x00";
    const MASKED: &[u8] = b"\x82\x82mask\x01\x02";

    fn medium() -> Vec<u8> {
        [b"\x82\x7e\x01\x00".as_slice(), &[0x88; 256]].concat()
    }

    fn long() -> Vec<u8> {
        [b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00".as_slice(), &[0x88; 65536]].concat()
    }

    /// Some of each kind together, and where each of them ends.
    fn stream() -> (Vec<u8>, Vec<usize>) {
        let (medium, long) = (medium(), long());
        let frames = [SHORT, EMPTY, MASKED, &medium, &long, SHORT];
        let ends = frames.iter().scan(0, |end, frame| {
            *end += frame.len();
            Some(*end)
        });
        (frames.concat(), ends.collect())
    }

    #[test]
    fn frames_end_where_they_do_however_they_are_cut() {
        let (all, ends) = stream();
        for step in [1, 2, 3, 7, 1000, all.len()] {
            let mut state = Frames::default();
            let mut at = 0;
            for piece in all.chunks(step) {
                state.advance(piece);
                at += piece.len();
                assert_eq!(state.rest() == 0, ends.contains(&at), "after {at} bytes in steps of {step}");
                assert!(!state.closed());
            }
        }
    }

    #[test]
    fn the_first_frame_of_what_comes_is_as_long_as_it_is() {
        let (all, ends) = stream();
        for begun in 0..all.len() {
            let mut state = Frames::default();
            state.advance(&all[..begun]);
            let end = ends.iter().copied().find(|end| *end > begun).unwrap();
            assert_eq!(state.first(&all[begun..]), end - begun, "from {begun} on");
            let part = &all[begun..begun.midpoint(end)];
            assert_eq!(state.first(part), part.len(), "of a part from {begun} on");
        }
        assert_eq!(Frames::default().first(&[]), 0);
    }

    #[test]
    fn a_close_frame_is_noticed() {
        let mut state = Frames::default();
        state.advance(b"\x82\x03abc\x88");
        assert!(!state.closed(), "its length may never come");
        state.advance(b"\x02\x03\xe8");
        assert!(state.closed());
    }
}
