//! What an exchange says to the control plane. Each exchange says its own end, so that nothing follows it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use bytes::Bytes;
use mux::{Closed, Link};
use protocol::RequestId;
use protocol::message::proxied::{Abort, Opcode, ProxyReply, TcpTunnelClose, WebSocketClose, WebSocketData};

/// Largest part of an answer in one message, in bytes before base64.
const CHUNK: usize = 64 * 1024;

/// The form in which an exchange ends, which depends on what it is and on how far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A request without an answer yet.
    Request = 0,
    /// A request whose answer has begun.
    Answer = 1,
    /// A WebSocket of the API server that is not open yet.
    Opening = 2,
    /// A WebSocket that is open.
    Open = 3,
    Tcp = 4,
}

/// One exchange's way back.
#[derive(Clone, Debug)]
pub struct Replies {
    link: Link,
    /// Of the envelopes.
    id: RequestId,
    form: Arc<AtomicU8>,
    /// Of a WebSocket that began as a request: its messages name that too.
    application: bool,
}

impl Replies {
    pub fn new(link: Link, id: RequestId, form: Form) -> Self {
        Self { link, id, form: Arc::new(AtomicU8::new(form as u8)), application: false }
    }

    /// Of a WebSocket that belongs to an application.
    pub fn of_application(mut self) -> Self {
        self.application = true;
        self
    }

    pub fn id(&self) -> &RequestId {
        &self.id
    }

    /// From now on it ends in this form.
    pub fn becomes(&self, form: Form) {
        self.form.store(form as u8, Relaxed);
    }

    pub fn is(&self, form: Form) -> bool {
        self.form.load(Relaxed) == form as u8
    }

    /// Waits while the link is full: that is what holds back whoever produces it.
    pub async fn send(&self, reply: ProxyReply) -> Result<(), Closed> {
        let text = reply.encode(Some(&self.id));
        // Only one copy waits.
        drop(reply);
        self.link.send_bulk(text).await
    }

    /// A piece of data in parts, each the message that `of` makes of it.
    pub async fn send_parts(&self, mut data: Bytes, of: impl Fn(Bytes) -> ProxyReply) -> Result<(), Closed> {
        while !data.is_empty() {
            let part = data.split_to(data.len().min(CHUNK));
            self.send(of(part)).await?;
        }
        Ok(())
    }

    /// A message of a WebSocket.
    pub async fn websocket(&self, opcode: Opcode, bytes: &[u8]) -> Result<(), Closed> {
        let mut data = WebSocketData::new(&self.id, opcode, bytes);
        if self.application {
            data.request_id = Some(self.id.to_string());
            data.message_type = Some(opcode as u8);
        }
        self.send(ProxyReply::WebSocketData(data)).await
    }

    /// The WebSocket's end, and the reason if it is not its own.
    pub async fn websocket_close(&self, error: Option<String>) -> Result<(), Closed> {
        self.send(ProxyReply::WebSocketClose(WebSocketClose { stream_id: self.id.to_string(), error })).await
    }

    /// The last word of an exchange that failed.
    pub async fn fail(&self, error: String) -> Result<(), Closed> {
        let reply = if self.is(Form::Tcp) {
            ProxyReply::TcpClose(TcpTunnelClose {
                reason: "write_error".to_owned(),
                error: Some(error),
                ..TcpTunnelClose::default()
            })
        } else if self.is(Form::Open) {
            return self.websocket_close(Some(error)).await;
        } else if self.is(Form::Answer) {
            ProxyReply::Abort(Abort::new(error))
        } else {
            let request_id = self.is(Form::Opening).then(|| self.id.to_string());
            ProxyReply::Error(Abort { request_id, ..Abort::new(error) })
        };
        self.send(reply).await
    }
}
