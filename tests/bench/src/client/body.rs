//! Where a body ends.

use anyhow::{Result, anyhow, ensure};
use bytes::{Buf, BytesMut};

/// The rest of a body.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Framing {
    /// This many bytes are to come.
    Length(u64),
    Chunked(Chunk),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Chunk {
    /// A line with the next chunk's size.
    Size,
    /// This much of a chunk.
    Data(u64),
    /// The line end behind a chunk.
    End,
    /// Lines up to an empty one, behind the last chunk.
    Trailers,
}

impl Framing {
    pub(super) fn chunked() -> Self {
        Self::Chunked(Chunk::Size)
    }

    /// Takes what it can from the buffer. Gives whether the body has ended.
    pub(super) fn advance(&mut self, buffer: &mut BytesMut, on_part: &mut impl FnMut(&[u8])) -> Result<bool> {
        match self {
            Self::Length(left) => {
                take(left, buffer, on_part);
                Ok(*left == 0)
            }
            Self::Chunked(chunk) => chunk.advance(buffer, on_part),
        }
    }
}

impl Chunk {
    fn advance(&mut self, buffer: &mut BytesMut, on_part: &mut impl FnMut(&[u8])) -> Result<bool> {
        loop {
            match self {
                Self::Size => {
                    let size = httparse::parse_chunk_size(buffer).map_err(|_| anyhow!("a bad chunk size"))?;
                    let httparse::Status::Complete((length, size)) = size else { return Ok(false) };
                    buffer.advance(length);
                    *self = if size == 0 { Self::Trailers } else { Self::Data(size) };
                }
                Self::Data(left) => {
                    take(left, buffer, on_part);
                    if *left > 0 {
                        return Ok(false);
                    }
                    *self = Self::End;
                }
                Self::End => {
                    if buffer.len() < 2 {
                        return Ok(false);
                    }
                    ensure!(buffer.starts_with(b"\r\n"), "a chunk is longer than it says");
                    buffer.advance(2);
                    *self = Self::Size;
                }
                Self::Trailers => {
                    let Some(end) = buffer.iter().position(|byte| *byte == b'\n') else { return Ok(false) };
                    buffer.advance(end + 1);
                    if end <= 1 {
                        return Ok(true);
                    }
                }
            }
        }
    }
}

fn take(left: &mut u64, buffer: &mut BytesMut, on_part: &mut impl FnMut(&[u8])) {
    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
    if let Some(part) = buffer.get(..length)
        && length > 0
    {
        on_part(part);
        buffer.advance(length);
        *left -= length as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The body's text, fed byte by byte, and what is left behind it.
    fn read(mut framing: Framing, wire: &[u8]) -> Result<(String, String)> {
        let mut buffer = BytesMut::new();
        let mut text = Vec::new();
        for (at, byte) in wire.iter().enumerate() {
            buffer.extend_from_slice(&[*byte]);
            if framing.advance(&mut buffer, &mut |part| text.extend_from_slice(part))? {
                let rest = String::from_utf8_lossy(&wire[at + 1..]).into_owned();
                assert!(buffer.is_empty());
                return Ok((String::from_utf8(text)?, rest));
            }
        }
        Err(anyhow!("it does not end"))
    }

    #[test]
    fn a_body_ends_where_its_framing_says() {
        assert_eq!(read(Framing::Length(3), b"abcHTTP").unwrap(), ("abc".to_owned(), "HTTP".to_owned()));
        let wire = b"3\r\nabc\r\n1\r\nd\r\n0\r\nx: y\r\n\r\nHTTP";
        assert_eq!(read(Framing::chunked(), wire).unwrap(), ("abcd".to_owned(), "HTTP".to_owned()));
        assert!(read(Framing::chunked(), b"3\r\nabcd\r\n").is_err());
        assert!(read(Framing::chunked(), b"zz\r\n").is_err());
        assert!(read(Framing::Length(9), b"abc").is_err());
    }
}
