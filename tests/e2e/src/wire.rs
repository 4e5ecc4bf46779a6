//! HTTP/1.1 as it is on the wire: for tests that care which bytes come when, which a client library hides.

use anyhow::{Context, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const MAX_HEAD: usize = 4 << 20;
const READ: usize = 64 * 1024;

/// A connection and what was read ahead of need.
#[derive(Debug)]
pub struct Wire<S> {
    pub io: S,
    read: BytesMut,
}

/// A request's or response's first line and headers.
#[derive(Clone, Debug)]
pub struct Head {
    pub first: String,
    /// Names in lower case, in the order they came.
    pub headers: Vec<(String, String)>,
}

/// How a body ends.
#[derive(Debug)]
pub enum Framing {
    Length(u64),
    Chunked,
    ToEnd,
    /// Over; with the trailers of a chunked body.
    Ended(Vec<(String, String)>),
}

impl Head {
    /// The first value of a header; `name` in lower case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The second word of the first line: a request's target or a response's status code.
    #[must_use]
    pub fn second(&self) -> &str {
        self.first.split(' ').nth(1).unwrap_or_default()
    }

    /// A response's status code; 0 when it has none.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.second().parse().unwrap_or_default()
    }

    /// How the body behind this head ends, when it has one at all.
    #[must_use]
    pub fn framing(&self, otherwise: Framing) -> Framing {
        if self.get("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            return Framing::Chunked;
        }
        self.get("content-length").and_then(|length| length.parse().ok()).map_or(otherwise, Framing::Length)
    }
}

/// The bytes of a chunked body's piece on the wire.
#[must_use]
pub fn chunk(data: &[u8]) -> Vec<u8> {
    let mut out = format!("{:x}\r\n", data.len()).into_bytes();
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
    out
}

/// The `index`th 64 KiB of a body that is nowhere like itself, so that a lost, repeated or moved piece shows.
#[must_use]
pub fn block(index: u64) -> Vec<u8> {
    let mut state = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(READ);
    while out.len() < READ {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out
}

/// The first `size` bytes of the blocks' sequence, piece by piece.
pub fn blocks(size: u64) -> impl Iterator<Item = Vec<u8>> {
    let mut left = size;
    (0..).map_while(move |index| {
        if left == 0 {
            return None;
        }
        let mut piece = block(index);
        piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        left -= piece.len() as u64;
        Some(piece)
    })
}

/// Length and SHA-256 of a body, as text.
#[derive(Clone, Debug, Default)]
pub struct Sum {
    bytes: u64,
    hash: Sha256,
}

impl Sum {
    pub fn add(&mut self, data: &[u8]) {
        self.bytes += data.len() as u64;
        self.hash.update(data);
    }

    #[must_use]
    pub fn text(self) -> String {
        let hex: String = self.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{} {hex}", self.bytes)
    }

    /// That of [`blocks`].
    #[must_use]
    pub fn of_blocks(size: u64) -> String {
        let mut sum = Self::default();
        blocks(size).for_each(|piece| sum.add(&piece));
        sum.text()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub fn new(io: S) -> Self {
        Self { io, read: BytesMut::new() }
    }

    /// # Errors
    /// When the connection is broken.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.io.write_all(bytes).await?;
        self.io.flush().await?;
        Ok(())
    }

    /// Reads more; false at the end.
    ///
    /// # Errors
    /// When the connection is broken.
    pub async fn fill(&mut self) -> Result<bool> {
        self.read.reserve(READ);
        Ok(self.io.read_buf(&mut self.read).await? > 0)
    }

    /// Bytes that were read and not asked for yet.
    pub fn ahead(&self) -> usize {
        self.read.len()
    }

    /// Whatever is there, or comes next; empty at the end.
    ///
    /// # Errors
    /// When the connection is broken.
    pub async fn some(&mut self) -> Result<Bytes> {
        if self.read.is_empty() {
            self.fill().await?;
        }
        Ok(self.read.split().freeze())
    }

    /// Exactly so many bytes.
    ///
    /// # Errors
    /// When the connection ends or breaks first.
    pub async fn exactly(&mut self, length: usize) -> Result<Bytes> {
        while self.read.len() < length {
            ensure!(self.fill().await?, "the connection ends after {} of {length} bytes", self.read.len());
        }
        Ok(self.read.split_to(length).freeze())
    }

    /// The next head; none when the connection ends instead.
    ///
    /// # Errors
    /// When it is no head, or the connection breaks or ends within.
    pub async fn head(&mut self) -> Result<Option<Head>> {
        let end = loop {
            if let Some(end) = self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            ensure!(self.read.len() < MAX_HEAD, "a head of more than {MAX_HEAD} bytes");
            if !self.fill().await? {
                ensure!(self.read.is_empty(), "the connection ends within a head");
                return Ok(None);
            }
        };
        let text = String::from_utf8_lossy(&self.read.split_to(end + 4)).into_owned();
        let mut lines = text.trim_end().split("\r\n");
        let first = lines.next().unwrap_or_default().to_owned();
        Ok(Some(Head { first, headers: lines.map(field).collect::<Result<_>>()? }))
    }

    /// The next head, which has to come.
    ///
    /// # Errors
    /// As [`Wire::head`], and when the connection ends instead.
    pub async fn need_head(&mut self) -> Result<Head> {
        self.head().await?.context("the connection ends without a head")
    }

    /// The next piece of a body; none at its proper end.
    ///
    /// # Errors
    /// When the connection breaks or ends before the body does.
    pub async fn piece(&mut self, framing: &mut Framing) -> Result<Option<Bytes>> {
        match framing {
            Framing::Ended(_) => Ok(None),
            Framing::Length(0) => {
                *framing = Framing::Ended(Vec::new());
                Ok(None)
            }
            Framing::Length(left) => {
                if self.read.is_empty() && !self.fill().await? {
                    bail!("the connection ends {left} bytes before the body");
                }
                let take = self.read.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= take as u64;
                Ok(Some(self.read.split_to(take).freeze()))
            }
            Framing::ToEnd => {
                let piece = self.some().await?;
                Ok(Some(piece).filter(|piece| !piece.is_empty()))
            }
            Framing::Chunked => {
                let line = self.line().await?;
                let size = line.split(';').next().unwrap_or_default();
                let size = usize::from_str_radix(size, 16).with_context(|| format!("{line:?} is no chunk's size"))?;
                if size > 0 {
                    let data = self.exactly(size).await?;
                    ensure!(self.line().await?.is_empty(), "a chunk is longer than it says");
                    return Ok(Some(data));
                }
                let mut trailers = Vec::new();
                loop {
                    let line = self.line().await?;
                    if line.is_empty() {
                        break;
                    }
                    trailers.push(field(&line)?);
                }
                *framing = Framing::Ended(trailers);
                Ok(None)
            }
        }
    }

    /// The whole body, and its trailers.
    ///
    /// # Errors
    /// As [`Wire::piece`].
    pub async fn body(&mut self, framing: Framing) -> Result<(Vec<u8>, Vec<(String, String)>)> {
        let mut body = Vec::new();
        let trailers = self.each(framing, |piece| body.extend_from_slice(piece)).await?;
        Ok((body, trailers))
    }

    /// Hands each piece of the body on; gives the trailers.
    ///
    /// # Errors
    /// As [`Wire::piece`].
    pub async fn each(&mut self, mut framing: Framing, mut take: impl FnMut(&[u8])) -> Result<Vec<(String, String)>> {
        while let Some(piece) = self.piece(&mut framing).await? {
            take(&piece);
        }
        Ok(if let Framing::Ended(trailers) = framing { trailers } else { Vec::new() })
    }

    async fn line(&mut self) -> Result<String> {
        loop {
            if let Some(end) = self.read.windows(2).position(|window| window == b"\r\n") {
                let line = self.read.split_to(end + 2);
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            ensure!(self.fill().await?, "the connection ends within a chunked body");
        }
    }
}

fn field(line: &str) -> Result<(String, String)> {
    let (name, value) = line.split_once(':').with_context(|| format!("{line:?} is no header"))?;
    Ok((name.to_ascii_lowercase(), value.trim().to_owned()))
}
