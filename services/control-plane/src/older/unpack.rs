//! Bodies that the agent has packed on their way.

use std::io::Write as _;

use bytes::Bytes;
use flate2::write::GzDecoder;
use protocol::message::proxied::ContentError;

use super::exchange::Broken;

/// Taken of the packed bytes at once; gzip makes at most a thousand times as many of them.
const STEP: usize = 1024;

/// Unpacks as it is read, so that what comes out of a small message never lies in memory as a whole.
#[derive(Debug)]
pub struct Unpack {
    packed: Bytes,
    decoder: GzDecoder<Vec<u8>>,
    /// What may come out yet.
    left: usize,
    most: usize,
}

impl Unpack {
    /// At most `most` bytes come out.
    pub fn new(packed: Bytes, most: usize) -> Self {
        Self { packed, decoder: GzDecoder::new(Vec::new()), left: most, most }
    }

    /// The next bytes; none behind the last.
    pub fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        let gzip = || Broken::malformed(&ContentError::Gzip);
        loop {
            let last = self.packed.is_empty();
            if last {
                self.decoder.try_finish().map_err(|_| gzip())?;
            } else {
                let step = self.packed.split_to(STEP.min(self.packed.len()));
                self.decoder.write_all(&step).map_err(|_| gzip())?;
            }
            let bytes = std::mem::take(self.decoder.get_mut());
            self.left = self.left.checked_sub(bytes.len()).ok_or(Broken::Unpacked(self.most))?;
            if !bytes.is_empty() {
                return Ok(Some(bytes.into()));
            }
            if last {
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::*;

    fn pack(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn unpack(packed: Vec<u8>, most: usize) -> Result<Vec<u8>, Broken> {
        let mut unpack = Unpack::new(packed.into(), most);
        let mut all = Vec::new();
        while let Some(bytes) = unpack.next()? {
            assert!(bytes.len() < 2 << 20, "{} bytes at once", bytes.len());
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    }

    #[test]
    fn what_was_packed_comes_out_as_it_was_and_a_part_of_it_never_as_the_whole() {
        let text = b"some text, again and again; ".repeat(5000);
        let packed = pack(&text);
        assert_eq!(unpack(packed.clone(), text.len()).unwrap(), text);
        assert_eq!(unpack(pack(b""), 0).unwrap(), b"");
        for cut in [0, 5, packed.len() / 2, packed.len() - 1] {
            assert!(unpack(packed[..cut].to_vec(), text.len()).is_err(), "{cut} bytes of {}", packed.len());
        }
        let mut wrong = packed;
        let sum = wrong.len() - 6;
        wrong[sum] ^= 1;
        assert!(unpack(wrong, text.len()).is_err(), "its checksum is wrong");
    }

    #[test]
    fn no_more_comes_out_than_is_allowed() {
        let bomb = pack(&vec![0; 20 << 20]);
        assert!(bomb.len() < 40_000);
        assert!(matches!(unpack(bomb.clone(), (20 << 20) - 1), Err(Broken::Unpacked(_))));
        assert_eq!(unpack(bomb, 20 << 20).unwrap().len(), 20 << 20);
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes: Vec<u8>, cut in 0usize..60) {
            let _ = unpack([&pack(b"text")[..cut.min(20)], &bytes].concat(), 1000);
        }
    }
}
