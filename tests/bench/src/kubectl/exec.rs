//! `kubectl exec` without kubectl, whose own start would hide what is measured. Kubernetes calls the protocol `v5.channel.k8s.io`: binary
//! WebSocket messages, the first byte of each is the channel (k8s.io/apimachinery, `pkg/util/httpstream/wsstream`).

use super::ground::{NAMESPACE, POD};
use crate::client::{Stream, Target};
use anyhow::{Context, Result, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use serde::Deserialize;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest, http::HeaderValue},
};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const CLOSE: u8 = 255;
/// What kubectl copies at once.
const PART: usize = 32 * 1024;

/// A running command.
pub(super) struct Exec(WebSocketStream<Stream>);

/// What it has printed.
#[derive(Debug, Default)]
pub(super) struct Printed {
    /// Bytes on stdout.
    pub(super) bytes: u64,
    /// All of stderr, and stdout as far as it is short.
    pub(super) text: BytesMut,
}

impl Exec {
    pub(super) async fn open(target: &Target, command: &[&str], stdin: bool) -> Result<Self> {
        let words: Vec<String> = command.iter().map(|word| format!("command={}", encoded(word))).collect();
        let path = format!("{}/api/v1/namespaces/{NAMESPACE}/pods/{POD}/exec", target.prefix);
        let query = format!("stdout=true&stderr=true&stdin={stdin}&{}", words.join("&"));
        // The scheme does not matter: the connection is there.
        let mut request = format!("ws://localhost{path}?{query}").into_client_request()?;
        let headers = request.headers_mut();
        headers.insert("sec-websocket-protocol", HeaderValue::from_static("v5.channel.k8s.io"));
        if let Some(token) = &target.token {
            headers.insert("authorization", HeaderValue::try_from(format!("Bearer {token}"))?);
        }
        let stream = target.connect().await.with_context(|| format!("cannot connect to {}", target.name))?;
        let (socket, _) = client_async(request, stream).await.context("exec is refused")?;
        Ok(Self(socket))
    }

    /// Sends this many bytes to its stdin, and then the end.
    pub(super) async fn feed(&mut self, length: u64) -> Result<()> {
        let mut part = BytesMut::with_capacity(PART + 1);
        part.put_u8(STDIN);
        part.put_bytes(b'x', PART);
        let part = part.freeze();
        let mut left = length;
        while left > 0 {
            let now = usize::try_from(left).unwrap_or(PART).min(PART);
            self.0.send(Message::Binary(part.slice(..=now))).await.context("stdin")?;
            left -= now as u64;
        }
        self.0.send(Message::Binary(Bytes::from_static(&[CLOSE, STDIN]))).await.context("the end of stdin")
    }

    /// Waits for the first output.
    pub(super) async fn begins(&mut self) -> Result<()> {
        self.message().await?.context("it ends at once")?;
        Ok(())
    }

    /// Reads all output. It must end with 0.
    pub(super) async fn finish(mut self) -> Result<Printed> {
        #[derive(Deserialize)]
        struct Status {
            status: String,
            #[serde(default)]
            message: String,
        }
        let mut printed = Printed::default();
        let mut status = None;
        while let Some((channel, data)) = self.message().await? {
            match channel {
                STDOUT => {
                    printed.bytes += data.len() as u64;
                    if data.len() < 1024 {
                        printed.text.extend_from_slice(&data);
                    }
                }
                STDERR => printed.text.extend_from_slice(&data),
                STATUS => status = Some(serde_json::from_slice::<Status>(&data).context("its status")?),
                other => bail!("a message on channel {other}"),
            }
        }
        let status = status.context("the session ended without a status")?;
        ensure!(status.status == "Success", "{}", status.message);
        Ok(printed)
    }

    /// The next message with data; none at the end.
    async fn message(&mut self) -> Result<Option<(u8, Bytes)>> {
        while let Some(message) = self.0.next().await {
            if let Message::Binary(mut data) = message.context("the session broke")? {
                ensure!(!data.is_empty(), "a message without a channel");
                let channel = bytes::Buf::get_u8(&mut data);
                // A channel that is opened says so with an empty message.
                if !data.is_empty() {
                    return Ok(Some((channel, data)));
                }
            }
        }
        Ok(None)
    }
}

fn encoded(word: &str) -> String {
    word.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
