//! A lean HTTP/1.1 client: prepared requests out, answers counted and thrown away.

mod body;
mod dial;

pub(crate) use self::dial::{Route, Stream, Target, Tls};

use self::body::Framing;
use anyhow::{Context, Result, bail};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const MAX_HEADERS: usize = 64;
/// What is read at once. Watches get less: there are a thousand of them.
const READ: usize = 64 * 1024;
const READ_WATCH: usize = 4 * 1024;
const ERROR_SHOWN: usize = 400;

/// One connection, kept open from request to request.
pub(crate) struct Connection {
    stream: Stream,
    buffer: BytesMut,
    read: usize,
}

/// The head of an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    framing: Framing,
}

impl Connection {
    pub(crate) async fn open(target: &Target) -> Result<Self> {
        let stream = target.connect().await.with_context(|| format!("cannot connect to {}", target.name))?;
        Ok(Self { stream, buffer: BytesMut::new(), read: READ })
    }

    /// For many connections with little on each.
    pub(crate) fn small(mut self) -> Self {
        self.read = READ_WATCH;
        self
    }

    /// Sends the request and reads the answer, which must be a success. Gives the number of bytes in its body.
    pub(crate) async fn fetch(&mut self, request: &[u8]) -> Result<u64> {
        self.send(request).await?;
        self.finish().await
    }

    /// As [`Self::fetch`], and gives the body.
    pub(crate) async fn fetch_body(&mut self, request: &[u8]) -> Result<Vec<u8>> {
        self.send(request).await?;
        let head = self.head().await?;
        let mut text = Vec::new();
        self.body(head, |part| text.extend_from_slice(part)).await?;
        if head.status >= 300 {
            bail!("{}", refusal(head.status, &text));
        }
        Ok(text)
    }

    /// Sends part of a request, or all of it.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).await.context("cannot send")?;
        self.stream.flush().await.context("cannot send")
    }

    /// Reads an answer to its end; it must be a success.
    pub(crate) async fn finish(&mut self) -> Result<u64> {
        let head = self.head().await?;
        if head.status >= 300 {
            let mut text = Vec::new();
            self.body(head, |part| text.extend_from_slice(part)).await?;
            bail!("{}", refusal(head.status, &text));
        }
        let mut bytes = 0;
        self.body(head, |part| bytes += part.len() as u64).await?;
        Ok(bytes)
    }

    /// Reads the head of an answer; its body must be read before the next request.
    pub(crate) async fn head(&mut self) -> Result<Head> {
        loop {
            if let Some((head, length)) = parse(&self.buffer)? {
                self.buffer.advance(length);
                return Ok(head);
            }
            self.fill().await.context("the answer's head")?;
        }
    }

    /// Reads a body to its end, part by part as it arrives.
    pub(crate) async fn body(&mut self, head: Head, mut on_part: impl FnMut(&[u8])) -> Result<()> {
        let mut framing = head.framing;
        while !framing.advance(&mut self.buffer, &mut on_part)? {
            self.fill().await.context("the answer's body")?;
        }
        Ok(())
    }

    async fn fill(&mut self) -> Result<()> {
        self.buffer.reserve(self.read);
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => bail!("the connection ended too early"),
            _ => Ok(()),
        }
    }
}

fn parse(buffer: &[u8]) -> Result<Option<(Head, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = response.parse(buffer).context("the answer is no HTTP/1.1")? else {
        return Ok(None);
    };
    let mut framing = Framing::Length(0);
    for header in response.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            let text = str::from_utf8(header.value).unwrap_or_default();
            framing = Framing::Length(text.trim().parse().with_context(|| format!("content-length {text:?}"))?);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            framing = Framing::chunked();
        }
    }
    let status = response.code.context("the answer has no status")?;
    Ok(Some((Head { status, framing }, length)))
}

fn refusal(status: u16, text: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(text).chars().take(ERROR_SHOWN).collect();
    format!("the answer is {status}: {}", text.trim())
}
