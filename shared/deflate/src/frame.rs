//! The head of a WebSocket's frame (RFC 6455, section 5.2).

/// The longest.
pub(crate) const HEAD: usize = 14;
pub(crate) const FIN: u8 = 0x80;
/// This message is compressed.
pub(crate) const RSV1: u8 = 0x40;
/// All that extensions may use.
pub(crate) const RSV: u8 = 0x70;
pub(crate) const OPCODE: u8 = 0x0f;
pub(crate) const CONTINUATION: u8 = 0;
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
/// Of the opcodes of control frames.
pub(crate) const CONTROL: u8 = 8;
/// What the payload of a compressed message ends with, and leaves away (RFC 7692, section 7.2.1).
pub(crate) const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

pub(crate) type Mask = [u8; 4];

#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    /// FIN, RSV and the opcode.
    pub(crate) first: u8,
    pub(crate) mask: Option<Mask>,
    /// Of the payload.
    pub(crate) length: u64,
}

/// As much of a head as has come.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Head {
    bytes: [u8; HEAD],
    length: usize,
}

impl Head {
    pub(crate) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Gives the frame with its last byte, and begins anew then.
    pub(crate) fn push(&mut self, byte: u8) -> Option<Frame> {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
        let [first, second, ..] = self.bytes;
        let (is_masked, short) = (second & 0x80 != 0, second & 0x7f);
        let more = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let end = 2 + more;
        if self.length < 2 || self.length < end + if is_masked { 4 } else { 0 } {
            return None;
        }
        let long = self.bytes.get(2..end).unwrap_or_default();
        let length = match more {
            0 => u64::from(short),
            _ => long.iter().fold(0, |length, byte| (length << 8) | u64::from(*byte)),
        };
        let mask = self.bytes.get(end..).and_then(<[u8]>::first_chunk).filter(|_| is_masked).copied();
        self.length = 0;
        Some(Frame { first, mask, length })
    }
}

impl Frame {
    /// What has room for a head and then the payload gets the head, as late as it can be. Gives where it begins.
    pub(crate) fn put_head(self, whole: &mut [u8]) -> usize {
        let mut head = Vec::with_capacity(HEAD);
        head.push(self.first);
        let masked = if self.mask.is_some() { 0x80 } else { 0 };
        if let Some(short) = u8::try_from(self.length).ok().filter(|length| *length < 126) {
            head.push(masked | short);
        } else if let Ok(length) = u16::try_from(self.length) {
            head.push(masked | 126);
            head.extend(length.to_be_bytes());
        } else {
            head.push(masked | 127);
            head.extend(self.length.to_be_bytes());
        }
        head.extend(self.mask.unwrap_or_default().iter().take(if self.mask.is_some() { 4 } else { 0 }));
        let from = HEAD - head.len();
        if let Some(place) = whole.get_mut(from..HEAD) {
            place.copy_from_slice(&head);
        }
        from
    }
}

/// Takes a mask off or puts it on, from the beginning of a frame; gives the mask for what follows.
pub(crate) fn mask(data: &mut [u8], mut mask: Mask) -> Mask {
    let length = data.len();
    let (words, rest) = data.as_chunks_mut::<4>();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(mask)).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask) {
        *byte ^= key;
    }
    mask.rotate_left(length % 4);
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_of_every_length_are_read_as_they_are_written() {
        for length in [0, 125, 126, 65_535, 65_536, u64::MAX] {
            for key in [None, Some([1, 2, 3, 4])] {
                let mut whole = [0xee; HEAD + 1];
                let from = Frame { first: FIN | TEXT, mask: key, length }.put_head(&mut whole);
                let mut head = Head::default();
                let mut read = None;
                for byte in &whole[from..HEAD] {
                    assert!(read.is_none());
                    read = head.push(*byte);
                }
                let read = read.unwrap();
                assert_eq!((read.first, read.mask, read.length), (FIN | TEXT, key, length));
                assert!(head.is_empty() && whole[HEAD] == 0xee);
            }
        }
    }

    #[test]
    fn a_mask_goes_on_where_it_was() {
        let key = [1, 2, 4, 8];
        let mut whole: Vec<u8> = (0..100).collect();
        let mut parts = whole.clone();
        mask(&mut whole, key);
        let mut left = key;
        let mut rest = parts.as_mut_slice();
        for size in [0, 1, 2, 3, 4, 5, 7, 8, 9, 61] {
            let (part, more) = rest.split_at_mut(size);
            left = mask(part, left);
            rest = more;
        }
        assert!(rest.is_empty());
        assert_eq!(whole, parts);
        assert_eq!(whole.get(..6), Some(&[1, 3, 6, 11, 5, 7][..]));
    }
}
