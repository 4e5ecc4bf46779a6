use bytes::{Buf as _, Bytes};
use flate2::{Decompress, FlushDecompress, Status};

use super::Violation;
use crate::frame::{FIN, Frame, HEAD, TAIL};

/// A compressed message on its way in: 43 KB, and what has been unpacked. Made anew for each: a message that refers to
/// before its beginning finds zeros there, and nothing of another.
#[derive(Debug)]
pub(super) struct Inflating {
    opcode: u8,
    inflate: Decompress,
    /// Room for a head first.
    out: Vec<u8>,
}

impl Inflating {
    pub(super) fn new(opcode: u8) -> Self {
        Self { opcode, inflate: Decompress::new(false), out: vec![0; HEAD] }
    }

    /// Unpacks never more than one byte above `limit`.
    pub(super) fn take(&mut self, mut packed: &[u8], limit: usize) -> Result<(), Violation> {
        let most = HEAD.saturating_add(limit).saturating_add(1);
        loop {
            if self.out.len() == self.out.capacity() {
                let more = self.out.len().max(1024).min(most.saturating_sub(self.out.len()));
                self.out.reserve_exact(more);
            }
            let (had, took) = (self.out.len(), self.inflate.total_in());
            let status = self.inflate.decompress_vec(packed, &mut self.out, FlushDecompress::None);
            let status = status.map_err(|_| Violation::Corrupt)?;
            let took = usize::try_from(self.inflate.total_in() - took).unwrap_or(usize::MAX);
            packed = packed.get(took..).unwrap_or_default();
            if self.out.len() >= most {
                return Err(Violation::TooBig { limit });
            }
            let has_room = self.out.len() < self.out.capacity();
            if status == Status::StreamEnd {
                // Some end each message with a block that is marked as the last; others may follow all the same.
                self.inflate.reset(false);
            }
            if has_room && (packed.is_empty() || took == 0 && self.out.len() == had) {
                return Ok(());
            }
        }
    }

    /// The message as one frame, for an end that expects a mask, or none.
    pub(super) fn end(mut self, masked: bool, limit: usize) -> Result<Bytes, Violation> {
        self.take(&TAIL, limit)?;
        let length = u64::try_from(self.out.len() - HEAD).unwrap_or_default();
        // A mask of zeros changes nothing.
        let frame = Frame { first: FIN | self.opcode, mask: masked.then_some([0; 4]), length };
        let from = frame.put_head(&mut self.out);
        let mut whole = Bytes::from(self.out);
        whole.advance(from);
        Ok(whole)
    }
}
