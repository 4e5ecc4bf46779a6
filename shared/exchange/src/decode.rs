//! Bodies as they arrive.

use bytes::{Buf as _, Bytes, BytesMut};
use http::HeaderMap;

use crate::error::{Error, Malformed};
use crate::head::{end_of_head, headers_of};

/// Most bytes of trailers, and of extensions of one chunk.
const MAX_EXTRA: usize = 16 * 1024;
const MAX_TRAILERS: usize = 64;
/// Of a chunk's size.
const MAX_DIGITS: u8 = 16;

/// Finds the body of one message in what arrives.
#[derive(Debug)]
pub(crate) enum Decoder {
    Done,
    /// So many bytes are left.
    Length(u64),
    Chunked(Chunked),
    UntilClose,
}

/// What was found.
#[derive(Debug)]
pub(crate) enum Decoded {
    /// Nothing: there is no more input.
    Starved,
    Data(Bytes),
    Trailers(HeaderMap),
    End,
}

/// Where in a chunked body.
#[derive(Debug)]
pub(crate) enum Chunked {
    /// In the digits of a chunk's size.
    Size {
        value: u64,
        digits: u8,
    },
    /// White space after the size.
    Space {
        size: u64,
    },
    /// Between the size and the end of its line: so many bytes of extensions.
    Extension {
        size: u64,
        seen: usize,
    },
    SizeLf {
        size: u64,
    },
    Data(u64),
    DataCr,
    DataLf,
    /// After the last chunk.
    Trailers(BytesMut),
}

const START: Chunked = Chunked::Size { value: 0, digits: 0 };

impl Decoder {
    pub(crate) fn length(bytes: u64) -> Self {
        if bytes == 0 { Self::Done } else { Self::Length(bytes) }
    }

    pub(crate) fn chunked() -> Self {
        Self::Chunked(START)
    }

    pub(crate) fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// Bytes to come, where that is known.
    pub(crate) fn remaining(&self) -> Option<u64> {
        match self {
            Self::Done => Some(0),
            Self::Length(left) => Some(*left),
            Self::Chunked(_) | Self::UntilClose => None,
        }
    }

    /// The next part of the body, taken out of `input`.
    pub(crate) fn decode(&mut self, input: &mut Bytes) -> Result<Decoded, Malformed> {
        let decoded = self.next(input);
        if input.is_empty() {
            // An empty rest would keep the buffer it lies in.
            *input = Bytes::new();
        }
        decoded
    }

    fn next(&mut self, input: &mut Bytes) -> Result<Decoded, Malformed> {
        match self {
            Self::Done => Ok(Decoded::End),
            _ if input.is_empty() => Ok(Decoded::Starved),
            Self::Length(left) => {
                let data = take(input, left);
                if *left == 0 {
                    *self = Self::Done;
                }
                Ok(Decoded::Data(data))
            }
            Self::UntilClose => Ok(Decoded::Data(std::mem::take(input))),
            Self::Chunked(state) => {
                let decoded = state.decode(input)?;
                if matches!(decoded, Decoded::End | Decoded::Trailers(_)) {
                    *self = Self::Done;
                }
                Ok(decoded)
            }
        }
    }

    /// The peer has closed; an error unless that is how this body ends.
    pub(crate) fn close(&mut self) -> Result<(), Error> {
        match self {
            Self::Done => Ok(()),
            Self::UntilClose => {
                *self = Self::Done;
                Ok(())
            }
            Self::Length(_) | Self::Chunked(_) => Err(Error::Incomplete),
        }
    }
}

/// At most `left` bytes, counted.
fn take(input: &mut Bytes, left: &mut u64) -> Bytes {
    let n = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
    *left -= n as u64;
    split(input, n)
}

/// The first `n` bytes. Nothing stays in `input` of a buffer that is used up.
pub(crate) fn split(input: &mut Bytes, n: usize) -> Bytes {
    if n == input.len() { std::mem::take(input) } else { input.split_to(n) }
}

impl Chunked {
    fn decode(&mut self, input: &mut Bytes) -> Result<Decoded, Malformed> {
        loop {
            if let Self::Data(left) = self {
                let data = take(input, left);
                if *left == 0 {
                    *self = Self::DataCr;
                }
                return Ok(if data.is_empty() { Decoded::Starved } else { Decoded::Data(data) });
            }
            if let Self::Trailers(lines) = self {
                return trailers(lines, input);
            }
            let Some(&byte) = input.first() else { return Ok(Decoded::Starved) };
            input.advance(1);
            *self = self.step(byte)?;
        }
    }

    /// Past one byte of what is around the data.
    fn step(&self, byte: u8) -> Result<Self, Malformed> {
        Ok(match (self, byte) {
            (Self::Size { value, digits }, byte) if byte.is_ascii_hexdigit() && *digits < MAX_DIGITS => {
                let digit = (byte as char).to_digit(16).ok_or(Malformed::Chunk)?;
                let value = value.checked_mul(16).and_then(|value| value.checked_add(digit.into()));
                Self::Size { value: value.ok_or(Malformed::Chunk)?, digits: digits + 1 }
            }
            (Self::Size { digits: 0, .. }, _) => return Err(Malformed::Chunk),
            (Self::Size { value: size, .. } | Self::Space { size } | Self::Extension { size, .. }, b'\r') => {
                Self::SizeLf { size: *size }
            }
            (Self::Size { value: size, .. } | Self::Space { size }, b';') => Self::Extension { size: *size, seen: 1 },
            (Self::Size { value: size, .. } | Self::Space { size }, b' ' | b'\t') => Self::Space { size: *size },
            (Self::Extension { size, seen }, byte) if byte != b'\n' && *seen < MAX_EXTRA => {
                Self::Extension { size: *size, seen: seen + 1 }
            }
            (Self::SizeLf { size: 0 }, b'\n') => Self::Trailers(BytesMut::new()),
            (Self::SizeLf { size }, b'\n') => Self::Data(*size),
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => START,
            _ => return Err(Malformed::Chunk),
        })
    }
}

/// What follows the last chunk: mostly just an empty line.
fn trailers(lines: &mut BytesMut, input: &mut Bytes) -> Result<Decoded, Malformed> {
    let before = lines.len();
    lines.extend_from_slice(input);
    let end = if lines.starts_with(b"\r\n") { Some(2) } else { end_of_head(lines, before.saturating_sub(2)) };
    let Some(end) = end.filter(|end| *end <= MAX_EXTRA) else {
        input.clear();
        return if lines.len() > MAX_EXTRA { Err(Malformed::Trailers) } else { Ok(Decoded::Starved) };
    };
    input.advance(end.saturating_sub(before));
    if end == 2 {
        return Ok(Decoded::End);
    }
    lines.truncate(end);
    let lines = std::mem::take(lines).freeze();
    let mut parsed = [httparse::EMPTY_HEADER; MAX_TRAILERS];
    match httparse::parse_headers(&lines, &mut parsed) {
        // All of it: whoever finds another end in it would find another message behind it.
        Ok(httparse::Status::Complete((used, parsed))) if used == lines.len() => {
            Ok(Decoded::Trailers(headers_of(&lines, parsed)?))
        }
        Ok(_) | Err(_) => Err(Malformed::Trailers),
    }
}

#[cfg(test)]
mod tests;
