//! `kubectl exec` without kubectl, whose own start takes longer than a session. Kubernetes calls the protocol
//! `v5.channel.k8s.io`: binary WebSocket messages, the first byte of each is the channel (k8s.io/apimachinery,
//! `pkg/util/httpstream/wsstream`).

use anyhow::{Context, Result, bail};
use bytes::{Buf, Bytes};
use futures::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{ClientRequestBuilder, Message},
};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
/// Before the channel that ends.
const CLOSE: u8 = 255;

/// A running command.
#[derive(Debug)]
pub struct Exec<S>(WebSocketStream<S>);

/// How a command has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// All of its stderr.
    pub stderr: Vec<u8>,
    /// Kubernetes' `Status`.
    pub status: Value,
}

impl Ended {
    /// What the command ended with, as far as the status tells.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        match self.status.get("status").and_then(Value::as_str) {
            Some("Success") => Some(0),
            _ => self.status.pointer("/details/causes/0/message").and_then(Value::as_str)?.parse().ok(),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Exec<S> {
    /// Asks for it on a connection; `pod` is the path of the pod's URL.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn open(stream: S, pod: &str, token: Option<&str>, command: &[&str], stdin: bool) -> Result<Self> {
        let words: String = command.iter().map(|word| format!("&command={}", encoded(word))).collect();
        // Scheme and host do not matter: the connection is there.
        let url = format!("ws://localhost{pod}/exec?stdout=true&stderr=true&stdin={stdin}{words}");
        let mut request = ClientRequestBuilder::new(url.parse()?).with_sub_protocol("v5.channel.k8s.io");
        if let Some(token) = token {
            request = request.with_header("authorization", format!("Bearer {token}"));
        }
        Ok(Self(client_async(request, stream).await.context("exec is refused")?.0))
    }

    /// Sends a part of its stdin.
    ///
    /// # Errors
    /// When the session is over.
    pub async fn send(&mut self, input: &[u8]) -> Result<()> {
        self.0.send(Message::Binary([&[STDIN], input].concat().into())).await.context("stdin")
    }

    /// Says that no more comes.
    ///
    /// # Errors
    /// When the session is over.
    pub async fn end_input(&mut self) -> Result<()> {
        self.0.send(Message::Binary(Bytes::from_static(&[CLOSE, STDIN]))).await.context("the end of stdin")
    }

    /// Waits for the first output.
    ///
    /// # Errors
    /// When there is none.
    pub async fn begins(&mut self) -> Result<()> {
        self.message().await?.context("it ends at once")?;
        Ok(())
    }

    /// Reads all output, and the status.
    ///
    /// # Errors
    /// When the session breaks off, or is not as the protocol says.
    pub async fn finish(mut self, mut on_stdout: impl FnMut(&[u8])) -> Result<Ended> {
        let (mut stderr, mut status) = (Vec::new(), None);
        while let Some((channel, data)) = self.message().await? {
            match channel {
                STDOUT => on_stdout(&data),
                STDERR => stderr.extend_from_slice(&data),
                STATUS => status = Some(serde_json::from_slice(&data).context("its status")?),
                CLOSE => {}
                other => bail!("a message of channel {other}: {data:?}"),
            }
        }
        Ok(Ended { stderr, status: status.context("the session ended without a status")? })
    }

    /// The next message with data; none at the end.
    async fn message(&mut self) -> Result<Option<(u8, Bytes)>> {
        while let Some(message) = self.0.next().await {
            match message.context("the session broke")? {
                Message::Binary(mut data) => {
                    let channel = data.try_get_u8().context("a message of no channel")?;
                    // A channel that is opened says so with an empty message.
                    if !data.is_empty() {
                        return Ok(Some((channel, data)));
                    }
                }
                Message::Close(_) => break,
                Message::Ping(_) | Message::Pong(_) => {}
                other => bail!("no message of the protocol: {other:?}"),
            }
        }
        Ok(None)
    }
}

fn encoded(word: &str) -> String {
    word.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
