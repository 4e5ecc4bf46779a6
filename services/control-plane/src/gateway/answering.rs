use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use duplex::Duplex;
use protocol::StreamAnswer;
use tokio::io::AsyncWrite;

/// What the agent said instead of a connection.
#[derive(Debug, thiserror::Error)]
#[error("the cluster's agent refused: {0}")]
pub struct Refused(pub String);

/// A stream whose agent says first whether there is a connection. Nobody waits for that: what the client sends goes out at
/// once, and a refusal is an error of the first read.
#[derive(Debug)]
pub struct Answering<S> {
    stream: S,
    /// What has come of the answer; none once it is whole.
    answer: Option<BytesMut>,
}

impl<S> Answering<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, answer: Some(BytesMut::new()) }
    }
}

impl<S: Duplex> Duplex for Answering<S> {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        while let Some(answer) = &mut self.answer {
            let Some(chunk) = ready!(self.stream.poll_chunk(cx))? else {
                let error = "the agent ended the stream before it said whether there is a connection";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, error)));
            };
            answer.extend_from_slice(&chunk);
            match StreamAnswer::decode(answer) {
                Ok(None) => {}
                Ok(Some((StreamAnswer::Connected, length))) => {
                    answer.advance(length);
                    let rest = self.answer.take().unwrap_or_default().freeze();
                    if !rest.is_empty() {
                        return Poll::Ready(Ok(Some(rest)));
                    }
                }
                Ok(Some((StreamAnswer::Refused(reason), _))) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionRefused, Refused(reason))));
                }
                Err(error) => return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error))),
            }
        }
        self.stream.poll_chunk(cx)
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.stream.poll_reset(cx)
    }
}

impl<S: Duplex> AsyncWrite for Answering<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use duplex::Socket;
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    async fn read(pieces: &[&[u8]]) -> Result<Vec<u8>, String> {
        let (near, mut far) = tokio::io::duplex(64);
        let pieces: Vec<Vec<u8>> = pieces.iter().map(|piece| piece.to_vec()).collect();
        let writing = tokio::spawn(async move {
            for piece in pieces {
                far.write_all(&piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let mut stream = Answering::new(Socket::new(near));
        let mut all = Vec::new();
        loop {
            match std::future::poll_fn(|cx| stream.poll_chunk(cx)).await {
                Ok(Some(chunk)) => all.extend_from_slice(&chunk),
                Ok(None) => break,
                Err(error) => return Err(error.to_string()),
            }
        }
        writing.await.unwrap();
        Ok(all)
    }

    #[tokio::test]
    async fn the_answer_is_taken_off_however_it_comes() {
        assert_eq!(read(&[b"\x00hello", b" world"]).await.unwrap(), b"hello world");
        assert_eq!(read(&[b"\x00", b"hello"]).await.unwrap(), b"hello");
        assert_eq!(read(&[b"\x00"]).await.unwrap(), b"", "a Service that closes at once");
        let refused = StreamAnswer::Refused("no such Service".into()).encode();
        for cut in 1..refused.len() {
            let (first, rest) = refused.split_at(cut);
            assert_eq!(read(&[first, rest]).await.unwrap_err(), "the cluster's agent refused: no such Service");
        }
        assert!(read(&[&refused[..2]]).await.unwrap_err().contains("before it said"));
        assert!(read(&[b"HTTP"]).await.unwrap_err().contains("is answered with 72"));
    }
}
