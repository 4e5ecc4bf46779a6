//! The yamux frame header (hashicorp/yamux, spec.md).

pub(crate) const HEADER: usize = 12;

pub(crate) const DATA: u8 = 0;
pub(crate) const WINDOW: u8 = 1;
pub(crate) const PING: u8 = 2;
pub(crate) const GO_AWAY: u8 = 3;

pub(crate) const SYN: u16 = 1;
pub(crate) const ACK: u16 = 2;
pub(crate) const FIN: u16 = 4;
pub(crate) const RST: u16 = 8;

/// 12 bytes, big endian: version, type, flags (u16), stream id (u32), length (u32).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) version: u8,
    pub(crate) kind: u8,
    pub(crate) flags: u16,
    pub(crate) stream: u32,
    /// Body length of a data frame, credit of a window update, opaque value of a ping, code of a go-away.
    pub(crate) length: u32,
}

impl Header {
    pub(crate) fn decode(bytes: [u8; HEADER]) -> Self {
        let [version, kind, f0, f1, s0, s1, s2, s3, l0, l1, l2, l3] = bytes;
        Self {
            version,
            kind,
            flags: u16::from_be_bytes([f0, f1]),
            stream: u32::from_be_bytes([s0, s1, s2, s3]),
            length: u32::from_be_bytes([l0, l1, l2, l3]),
        }
    }

    pub(crate) fn encode(self) -> [u8; HEADER] {
        let [f0, f1] = self.flags.to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        let [l0, l1, l2, l3] = self.length.to_be_bytes();
        [self.version, self.kind, f0, f1, s0, s1, s2, s3, l0, l1, l2, l3]
    }

    pub(crate) fn data(flags: u16, stream: u32, length: u32) -> Self {
        Self { version: 0, kind: DATA, flags, stream, length }
    }

    pub(crate) fn window(flags: u16, stream: u32, credit: u32) -> Self {
        Self { version: 0, kind: WINDOW, flags, stream, length: credit }
    }

    pub(crate) fn pong(value: u32) -> Self {
        Self { version: 0, kind: PING, flags: ACK, stream: 0, length: value }
    }

    pub(crate) fn has(self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}
