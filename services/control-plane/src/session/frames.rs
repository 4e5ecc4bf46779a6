/// Where the frames of one direction of a WebSocket begin and end (RFC 6455, section 5.2).
#[derive(Debug, Default)]
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

    /// How many bytes may go by and end at most the frame under way: none between two frames. In a head, whose length
    /// shows as it comes, that is one.
    pub fn rest(&self) -> usize {
        if self.come > 0 { 1 } else { usize::try_from(self.payload).unwrap_or(usize::MAX) }
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
    fn what_is_left_of_a_frame_leads_to_its_end_and_no_further() {
        let (all, ends) = stream();
        for begun in 1..all.len() {
            let mut state = Frames::default();
            state.advance(&all[..begun]);
            let mut at = begun;
            while state.rest() > 0 {
                let next = at + state.rest();
                state.advance(&all[at..next]);
                at = next;
            }
            assert_eq!(ends.iter().find(|end| **end >= begun), Some(&at), "from {begun} on");
        }
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
