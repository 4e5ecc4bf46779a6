//! Datagrams on a `udp` stream with a header of version 2: each behind its length as a u16, in both directions. A stream
//! has no boundaries of its own.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// Longest datagram, in bytes; what UDP itself takes is less.
pub const MAX_DATAGRAM: usize = u16::MAX as usize;

/// Appends `datagram` behind its length. False: it is too long, and nothing was appended.
pub fn put_datagram(out: &mut BytesMut, datagram: &[u8]) -> bool {
    let Ok(length) = u16::try_from(datagram.len()) else { return false };
    out.reserve(2 + datagram.len());
    out.put_u16(length);
    out.put_slice(datagram);
    true
}

/// Takes datagrams out of what arrives. Holds less than one.
#[derive(Debug, Default)]
pub struct Datagrams(BytesMut);

impl Datagrams {
    /// More of the stream. To be followed by [`next`](Self::next) until that gives none.
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The next datagram that is whole; it may be empty.
    #[expect(clippy::should_implement_trait, reason = "none means that more has to be pushed, not that it is over")]
    pub fn next(&mut self) -> Option<Bytes> {
        let length = usize::from(u16::from_be_bytes(*self.0.first_chunk::<2>()?));
        if self.0.len() < 2 + length {
            return None;
        }
        self.0.advance(2);
        Some(self.0.split_to(length).freeze())
    }

    /// Nothing of a datagram is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_that_is_too_long_is_not_sent_in_part() {
        let mut out = BytesMut::new();
        assert!(!put_datagram(&mut out, &vec![0; MAX_DATAGRAM + 1]));
        assert!(out.is_empty());
        assert!(put_datagram(&mut out, b""));
        assert_eq!(*out, [0, 0]);
    }

    proptest! {
        #[test]
        fn datagrams_come_out_as_they_went_in_however_they_are_cut(
            datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20),
            cut in 1usize..200,
        ) {
            let mut out = BytesMut::new();
            for datagram in &datagrams {
                prop_assert!(put_datagram(&mut out, datagram));
            }
            let mut reader = Datagrams::default();
            let mut read = Vec::new();
            for piece in out.chunks(cut) {
                reader.push(piece);
                while let Some(datagram) = reader.next() {
                    read.push(datagram.to_vec());
                }
            }
            prop_assert_eq!(read, datagrams);
            prop_assert!(reader.is_empty());
        }
    }
}
