//! Stream frames as they travel in a NATS payload: 20 fixed bytes, then what the kind adds. All integers big-endian.
//!
//! ```text
//!  0      1     2      3   4        8           16       20
//!  version kind  flags  0   a: u32   id: u64     b: u32   rest
//!  DATA    flags bit 0 = fin    a = sequence   id = receiver's stream   b = credit returned   rest = bytes
//!  CREDIT                                      id = receiver's stream   b = credit
//!  RESET                                       id = receiver's stream                         rest = reason
//!  OPEN                         a = epoch      id = opener's stream     b = receive credit    rest = u8 n · address · u16 m · JSON header · first bytes
//!  ACCEPT                       a = epoch      id = opener's stream     b = receive credit    rest = u64 acceptor's stream · address
//!  REFUSE  flags = why                         id = opener's stream                           rest = reason
//!  PING, PONG                   a = epoch                                                     rest = address
//! ```
//! An address is `<service>.<instance>`: where the sender's own frames are to go.

use bytes::{BufMut, Bytes, BytesMut};

pub(crate) const VERSION: u8 = 1;
/// Bytes before a DATA frame's own.
pub(crate) const HEADER: usize = 20;
/// Longest reason that is kept; a peer's text is never worth more.
const MAX_REASON: usize = 256;
/// Longest address: a service name, a dot, an instance id.
const MAX_ADDRESS: usize = 64;

const DATA: u8 = 1;
const CREDIT: u8 = 2;
const RESET: u8 = 3;
const OPEN: u8 = 4;
const ACCEPT: u8 = 5;
const REFUSE: u8 = 6;
const PING: u8 = 7;
const PONG: u8 = 8;

const FIN: u8 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    TooMany,
    Other,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Data { id: u64, sequence: u32, credit: u32, fin: bool, bytes: Bytes },
    Credit { id: u64, credit: u32 },
    Reset { id: u64, reason: String },
    Open { id: u64, epoch: u32, credit: u32, address: String, header: Bytes, first: Bytes },
    Accept { id: u64, epoch: u32, credit: u32, from: u64, address: String },
    Refuse { id: u64, why: Refusal, reason: String },
    Ping { epoch: u32, address: String },
    Pong { epoch: u32, address: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("frame shorter than its fields")]
    Short,
    #[error("frame version {0} is not known")]
    Version(u8),
    #[error("frame kind {0} is not known")]
    Kind(u8),
    #[error("address is not a service and an instance")]
    Address,
}

fn fixed(kind: u8, flags: u8, a: u32, id: u64, b: u32) -> [u8; HEADER] {
    let mut out = [0; HEADER];
    {
        let mut rest = out.as_mut_slice();
        rest.put_slice(&[VERSION, kind, flags, 0]);
        rest.put_u32(a);
        rest.put_u64(id);
        rest.put_u32(b);
    }
    out
}

/// The fixed part of a DATA frame, to be written over the room left in front of its bytes.
pub(crate) fn data_header(id: u64, sequence: u32, credit: u32, fin: bool) -> [u8; HEADER] {
    fixed(DATA, u8::from(fin), sequence, id, credit)
}

fn build(kind: u8, flags: u8, a: u32, id: u64, b: u32, parts: &[&[u8]]) -> Bytes {
    let length = parts.iter().map(|part| part.len()).sum::<usize>();
    let mut out = BytesMut::with_capacity(HEADER + length);
    out.put_slice(&fixed(kind, flags, a, id, b));
    for part in parts {
        out.put_slice(part);
    }
    out.freeze()
}

pub(crate) fn credit(id: u64, credit: u32) -> Bytes {
    build(CREDIT, 0, 0, id, credit, &[])
}

pub(crate) fn reset(id: u64, reason: &str) -> Bytes {
    build(RESET, 0, 0, id, 0, &[reason.as_bytes()])
}

pub(crate) fn ping(epoch: u32, address: &str) -> Bytes {
    build(PING, 0, epoch, 0, 0, &[address.as_bytes()])
}

pub(crate) fn pong(epoch: u32, address: &str) -> Bytes {
    build(PONG, 0, epoch, 0, 0, &[address.as_bytes()])
}

pub(crate) fn accept(id: u64, epoch: u32, credit: u32, from: u64, address: &str) -> Bytes {
    build(ACCEPT, 0, epoch, id, credit, &[&from.to_be_bytes(), address.as_bytes()])
}

pub(crate) fn refuse(id: u64, why: Refusal, reason: &str) -> Bytes {
    let why = match why {
        Refusal::TooMany => 1,
        Refusal::Other => 0,
    };
    build(REFUSE, why, 0, id, 0, &[reason.as_bytes()])
}

/// None when the header does not fit its length field or the address its own.
pub(crate) fn open(id: u64, epoch: u32, credit: u32, address: &str, header: &[u8], first: &[u8]) -> Option<Bytes> {
    let address_length = u8::try_from(address.len()).ok()?;
    let header_length = u16::try_from(header.len()).ok()?;
    Some(build(
        OPEN,
        0,
        epoch,
        id,
        credit,
        &[&[address_length], address.as_bytes(), &header_length.to_be_bytes(), header, first],
    ))
}

/// Reads one frame; its bytes are slices of `payload`, not copies.
pub(crate) fn decode(payload: &Bytes) -> Result<Frame, FrameError> {
    let (&[version, kind, flags, _, a0, a1, a2, a3, i0, i1, i2, i3, i4, i5, i6, i7, b0, b1, b2, b3], rest) =
        payload.split_first_chunk::<HEADER>().ok_or(FrameError::Short)?;
    if version != VERSION {
        return Err(FrameError::Version(version));
    }
    let a = u32::from_be_bytes([a0, a1, a2, a3]);
    let id = u64::from_be_bytes([i0, i1, i2, i3, i4, i5, i6, i7]);
    let b = u32::from_be_bytes([b0, b1, b2, b3]);
    Ok(match kind {
        DATA => Frame::Data { id, sequence: a, credit: b, fin: flags & FIN != 0, bytes: payload.slice(HEADER..) },
        CREDIT => Frame::Credit { id, credit: b },
        RESET => Frame::Reset { id, reason: reason(rest) },
        OPEN => {
            let (&[address_length], rest) = rest.split_first_chunk::<1>().ok_or(FrameError::Short)?;
            let (name, rest) = rest.split_at_checked(address_length.into()).ok_or(FrameError::Short)?;
            let (length, rest) = rest.split_first_chunk::<2>().ok_or(FrameError::Short)?;
            let (header, first) = rest.split_at_checked(u16::from_be_bytes(*length).into()).ok_or(FrameError::Short)?;
            let (header, first) = (payload.slice_ref(header), payload.slice_ref(first));
            Frame::Open { id, epoch: a, credit: b, address: address(name)?, header, first }
        }
        ACCEPT => {
            let (from, name) = rest.split_first_chunk::<8>().ok_or(FrameError::Short)?;
            Frame::Accept { id, epoch: a, credit: b, from: u64::from_be_bytes(*from), address: address(name)? }
        }
        REFUSE => {
            let why = if flags == 1 { Refusal::TooMany } else { Refusal::Other };
            Frame::Refuse { id, why, reason: reason(rest) }
        }
        PING => Frame::Ping { epoch: a, address: address(rest)? },
        PONG => Frame::Pong { epoch: a, address: address(rest)? },
        other => return Err(FrameError::Kind(other)),
    })
}

fn reason(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..MAX_REASON).unwrap_or(bytes)).into_owned()
}

/// An address becomes part of a subject, so nothing but a name and an id may pass: no wildcard, space or further dot.
fn address(bytes: &[u8]) -> Result<String, FrameError> {
    let plain = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    let text = std::str::from_utf8(bytes).map_err(|_| FrameError::Address)?;
    match text.split_once('.') {
        Some((service, instance)) if text.len() <= MAX_ADDRESS && plain(service) && plain(instance) => {
            Ok(text.to_owned())
        }
        _ => Err(FrameError::Address),
    }
}

#[cfg(test)]
#[path = "frame/tests.rs"]
mod tests;
