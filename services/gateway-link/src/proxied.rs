//! Requests, WebSockets and tunnels that come as messages of the link: all that a control plane of the published protocol
//! sends. What they carry takes the same ways as streams do; only the envelope is undone here.
//!
//! ```text
//!   session ── command, binary (never wait) ──► Proxied ── inbox (bounded) ──► a task for each exchange ──► bus, Service
//!   link    ◄── Replies (wait while the link is full) ◄────────────────────────────┘
//! ```
//!
//! One task owns each exchange and says each of its words, the last one too; dropping its work cancels what it has asked.

mod begin;
mod failure;
mod inbox;
mod reply;
mod request;
mod route;
mod tcp;
mod udp;
mod upstream;
mod websocket;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mux::{Budget, CloseCode, Link};
use protocol::message::proxied::{Abort, Backpressure, ProxyCommand, ProxyReply, WebSocketClose, WebSocketData};
use protocol::{Envelope, ParseError, RequestId};
use runtime::Tracer;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{self, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::forward::Forwarder;
use crate::metrics::{Dropped, ExchangeMetrics, TunnelFailure, Unused};
use crate::options;
use crate::tunnel::Tunnels;
use failure::Failure;
use inbox::{Inbox, Pushed};
use udp::{Arrived, Session};
use upstream::Upstream;
use websocket::FromClient;

/// Short answers that wait for a full link; above it the control plane does not read, and the link is given up.
const OUTBOX: usize = 4096;
/// Longest id of an exchange, tunnel or client, in bytes: they are kept as long as the exchange is.
const MAX_NAME: usize = 512;
const SWEEP: Duration = Duration::from_secs(20);
/// For exchanges to say that they end because the agent does.
const FAREWELL: Duration = Duration::from_secs(1);

/// The exchanges of one link. Dropping it ends them.
#[derive(Debug)]
pub struct Proxied {
    link: Link,
    options: options::Proxied,
    budget: Arc<Budget>,
    upstream: Arc<Upstream>,
    tunnels: Tunnels,
    metrics: Arc<ExchangeMetrics>,
    tracer: Tracer,
    /// Where a `backpressure` or a refusal goes: they are said here, and nothing waits here.
    outbox: mpsc::Sender<String>,
    exchanges: HashMap<RequestId, Exchange>,
    sessions: HashMap<Session, Arc<Arrived>>,
    tasks: JoinSet<()>,
    /// Which of these is which task's.
    owners: HashMap<task::Id, Owner>,
}

#[derive(Debug)]
enum Owner {
    Exchange(RequestId),
    Session(Session),
}

/// One exchange under way, as far as the messages to it are concerned.
#[derive(Debug)]
struct Exchange {
    /// Gone once it was told to end.
    stop: Option<oneshot::Sender<Failure>>,
    input: Input,
}

#[derive(Debug)]
enum Input {
    Body(Inbox<Bytes>, Rest),
    WebSocket(Inbox<FromClient>),
    Tcp(Inbox<Bytes>),
}

/// What of a request's body is still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    Nothing,
    Chunks,
    Binary,
}

/// What names an exchange inside of a payload that cannot be read otherwise.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Named {
    stream_id: String,
    request_id: String,
}

impl Proxied {
    /// `budget`: of all that waits here.
    pub fn new(link: Link, forwarder: &Forwarder, options: &options::Proxied, budget: &Arc<Budget>) -> Self {
        let (outbox, mut waiting) = mpsc::channel::<String>(OUTBOX);
        let upstream = Arc::new(Upstream::new(forwarder.bus.clone()));
        let mut tasks = JoinSet::new();
        let (to, swept) = (link.clone(), Arc::clone(&upstream));
        tasks.spawn(async move {
            while let Some(text) = waiting.recv().await
                && to.send_bulk(text).await.is_ok()
            {}
        });
        tasks.spawn(async move {
            let mut ticks = interval(SWEEP);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                swept.sweep();
            }
        });
        Self {
            link,
            options: options.clone(),
            budget: Arc::clone(budget),
            upstream,
            tunnels: forwarder.tunnels.clone(),
            metrics: Arc::clone(&forwarder.metrics.exchanges),
            tracer: forwarder.tracer.clone(),
            outbox,
            exchanges: HashMap::new(),
            sessions: HashMap::new(),
            tasks,
            owners: HashMap::new(),
        }
    }

    /// Whether no exchange is under way. Sessions of UDP do not count: they have no end of their own.
    pub fn is_idle(&self) -> bool {
        self.exchanges.is_empty()
    }

    /// Takes a message in. Never waits.
    pub fn command(&mut self, id: Option<RequestId>, command: ProxyCommand) {
        match (command, id) {
            (ProxyCommand::WebSocketStart(start), id) => self.websocket_start(id, *start),
            (ProxyCommand::WebSocketData(data), id) => self.websocket_data(id, data),
            (ProxyCommand::WebSocketClose(WebSocketClose { stream_id, .. }), id) => {
                self.end_of(&named(&stream_id, None, id));
            }
            (ProxyCommand::UdpData(datagram), _) => self.udp_data(*datagram),
            (command, None) => {
                tracing::warn!(kind = command.kind(), "a message without a request id has no effect");
                self.metrics.unused(Unused::Malformed);
                if let ProxyCommand::Request(_) = command {
                    self.say(None, &ProxyReply::Error(Abort::new("a proxy_request without a request_id")));
                }
            }
            (ProxyCommand::Request(request), Some(id)) => self.request(id, *request),
            (ProxyCommand::Chunk(bytes), Some(id)) => self.chunk(&id, bytes),
            (ProxyCommand::End, Some(id)) => self.body_end(&id),
            (ProxyCommand::Cancel, Some(id)) => self.stop(&id, Failure::Silent),
            (ProxyCommand::TcpStart(start), Some(id)) => self.tcp_start(id, &start),
            (ProxyCommand::TcpData(data), Some(id)) => self.tcp_data(&id, data.data.0),
            (ProxyCommand::TcpClose(_), Some(id)) => self.end_of(&id),
        }
    }

    /// Takes a binary message in, which is a request's body. Never waits.
    pub fn binary(&mut self, frame: &Bytes) {
        let (id, body) = match ProxyCommand::binary_body(frame) {
            Ok((id, body)) => (RequestId::from(id), body),
            Err(error) => {
                tracing::warn!(%error, "a binary message has no effect");
                return self.metrics.unused(Unused::Malformed);
            }
        };
        let Some(exchange) = self.exchanges.get_mut(&id) else { return self.metrics.unused(Unused::Unknown) };
        let Input::Body(inbox, rest @ Rest::Binary) = &mut exchange.input else {
            return self.metrics.unused(Unused::OutOfOrder);
        };
        *rest = Rest::Nothing;
        let size = body.len();
        let pushed = if body.is_empty() { Pushed::Taken } else { inbox.push(body, size) };
        inbox.end();
        self.pushed(&id, pushed);
    }

    /// A message that cannot be read ends the exchange that it belongs to: a part of that is missing now.
    pub fn unreadable(&mut self, text: &str, error: &ParseError) {
        let Ok(envelope) = Envelope::parse(text) else { return };
        if !ProxyCommand::KINDS.contains(&&*envelope.kind) {
            return;
        }
        self.metrics.unused(Unused::Malformed);
        if matches!(&*envelope.kind, "proxy_websocket_data" | "ws_data") {
            self.metrics.websockets.dropped(Dropped::Malformed);
        }
        let Named { stream_id, request_id } = envelope.payload("proxy").unwrap_or_default();
        let id = named(&stream_id, Some(request_id), envelope.request_id());
        let error = runtime::error_text(error);
        if self.exchanges.contains_key(&id) {
            self.stop(&id, Failure::said(error));
        } else if matches!(&*envelope.kind, "proxy_request" | "proxy_websocket_start" | "ws_start" | "tcp_tunnel_start")
        {
            self.refuse(&id, error);
        }
    }

    /// Puts away what has ended. To be awaited again and again; losing the future loses nothing.
    pub async fn ended(&mut self) {
        let (id, failed) = match self.tasks.join_next_with_id().await {
            Some(Ok((id, ()))) => (id, false),
            Some(Err(error)) => (error.id(), true),
            None => return std::future::pending().await,
        };
        match self.owners.remove(&id) {
            Some(Owner::Exchange(id)) => {
                self.exchanges.remove(&id);
                if failed {
                    self.refuse(&id, "the agent failed at this request; see the log of gateway-link".to_owned());
                }
            }
            Some(Owner::Session(session)) => {
                // What has come since is no beginning of a new one.
                for _ in 0..self.sessions.remove(&session).map_or(0, |arrived| arrived.clear()) {
                    self.tunnels.udp_failed(TunnelFailure::Dropped);
                }
            }
            None => {}
        }
    }

    /// Ends all exchanges, and lets each say so if it can.
    pub async fn shutdown(&mut self) {
        for exchange in self.exchanges.values_mut() {
            if let Some(stop) = exchange.stop.take() {
                // Who has ended already needs no telling.
                let _ended = stop.send(Failure::said("the agent's gateway-link is shutting down; try again"));
            }
        }
        let said = async {
            while !self.exchanges.is_empty() {
                self.ended().await;
            }
        };
        let _late = timeout(FAREWELL, said).await;
        self.tasks.shutdown().await;
        self.exchanges.clear();
        self.sessions.clear();
        self.owners.clear();
    }

    fn websocket_data(&mut self, id: Option<RequestId>, data: WebSocketData) {
        let id = named(&data.stream_id, data.request_id.clone(), id);
        let websockets = &self.metrics.websockets;
        let Some(exchange) = self.exchanges.get(&id) else {
            websockets.dropped(Dropped::Unknown);
            return self.metrics.unused(Unused::Unknown);
        };
        let Input::WebSocket(inbox) = &exchange.input else { return self.misplaced(&id) };
        match data.parts() {
            Ok((opcode, bytes)) => {
                let size = bytes.len();
                let pushed = inbox.push(FromClient { opcode, bytes }, size);
                match pushed {
                    Pushed::Taken | Pushed::Half => {}
                    Pushed::Late | Pushed::Unwanted => websockets.dropped(Dropped::Late),
                    Pushed::Full | Pushed::LinkFull => websockets.dropped(Dropped::Full),
                }
                self.pushed(&id, pushed);
            }
            Err(error) => {
                websockets.dropped(Dropped::Malformed);
                self.stop(&id, error.into());
            }
        }
    }

    fn tcp_data(&mut self, id: &RequestId, bytes: Bytes) {
        let Some(exchange) = self.exchanges.get(id) else { return self.metrics.unused(Unused::Unknown) };
        let Input::Tcp(inbox) = &exchange.input else { return self.misplaced(id) };
        let size = bytes.len();
        let pushed = if bytes.is_empty() { Pushed::Taken } else { inbox.push(bytes, size) };
        self.pushed(id, pushed);
    }

    fn chunk(&mut self, id: &RequestId, bytes: Bytes) {
        let Some(exchange) = self.exchanges.get(id) else { return self.metrics.unused(Unused::Unknown) };
        match &exchange.input {
            Input::Body(inbox, Rest::Chunks) => {
                let size = bytes.len();
                let pushed = if bytes.is_empty() { Pushed::Taken } else { inbox.push(bytes, size) };
                self.pushed(id, pushed);
            }
            // Its body was whole with it.
            Input::Body(..) => self.metrics.unused(Unused::OutOfOrder),
            Input::WebSocket(_) | Input::Tcp(_) => self.misplaced(id),
        }
    }

    fn body_end(&mut self, id: &RequestId) {
        let Some(exchange) = self.exchanges.get(id) else { return self.metrics.unused(Unused::Unknown) };
        match &exchange.input {
            Input::Body(inbox, Rest::Chunks) if inbox.end() => {}
            Input::Body(..) => self.metrics.unused(Unused::OutOfOrder),
            Input::WebSocket(_) | Input::Tcp(_) => self.misplaced(id),
        }
    }

    /// The client's end of a WebSocket or tunnel: what it has sent before is carried on yet.
    fn end_of(&mut self, id: &RequestId) {
        let first = match self.exchanges.get(id).map(|exchange| &exchange.input) {
            None => return self.metrics.unused(Unused::Unknown),
            Some(Input::WebSocket(inbox)) => inbox.end(),
            Some(Input::Tcp(inbox)) => inbox.end(),
            Some(Input::Body(..)) => false,
        };
        if !first {
            self.metrics.unused(Unused::OutOfOrder);
        }
    }

    /// Ends an exchange from here.
    fn stop(&mut self, id: &RequestId, why: Failure) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return self.metrics.unused(Unused::Unknown) };
        if let Some(stop) = exchange.stop.take() {
            // One that has just ended needs no telling.
            let _ended = stop.send(why);
        }
    }

    /// A message of another kind of exchange: a part of this one would be missing.
    fn misplaced(&mut self, id: &RequestId) {
        self.metrics.unused(Unused::OutOfOrder);
        self.stop(id, Failure::said("a message that belongs to another kind of exchange than this one"));
    }

    fn pushed(&mut self, id: &RequestId, pushed: Pushed) {
        match pushed {
            Pushed::Taken | Pushed::Unwanted => {}
            Pushed::Half => {
                self.metrics.backpressure();
                let reason = "channel_full".to_owned();
                self.say(Some(id), &ProxyReply::Backpressure(Backpressure { request_id: id.to_string(), reason }));
            }
            Pushed::Late => self.metrics.unused(Unused::OutOfOrder),
            Pushed::Full | Pushed::LinkFull => self.stop(id, Failure::said(self.full(pushed))),
        }
    }

    fn full(&self, pushed: Pushed) -> String {
        let (whose, setting, limit) = match pushed {
            Pushed::LinkFull => ("all exchanges of the link", "waiting_total", self.options.waiting_total),
            _ => ("it", "waiting", self.options.waiting),
        };
        format!(
            "what is sent for this exchange comes faster than it is taken, and more than the {limit} bytes that may wait \
             for {whose} would (proxied.{setting} of gateway-link)"
        )
    }

    fn refuse_for(&self, id: &RequestId, failure: Failure) {
        if let Failure::Said(error) = failure {
            self.refuse(id, error);
        }
    }

    fn refuse(&self, id: &RequestId, error: String) {
        self.metrics.failed();
        // Of a WebSocket's start the payload names it too, and of any other it may.
        let request_id = Some(id.to_string()).filter(|id| !id.is_empty());
        self.say(Some(id), &ProxyReply::Error(Abort { request_id, ..Abort::new(error) }));
    }

    /// Says something short without waiting.
    fn say(&self, id: Option<&RequestId>, reply: &ProxyReply) {
        let text = reply.encode(id.map(RequestId::as_str).filter(|id| !id.is_empty()));
        if let Err(mpsc::error::TrySendError::Full(_)) = self.outbox.try_send(text) {
            self.link.close(CloseCode::Policy, "answers to messages are not read");
        }
    }
}

/// The id of an exchange: by its payload, else by its envelope.
fn named(stream_id: &str, request_id: Option<String>, envelope: Option<RequestId>) -> RequestId {
    let request_id = request_id.filter(|id| !id.is_empty()).map(RequestId::from);
    let stream_id = Some(stream_id).filter(|id| !id.is_empty()).map(RequestId::from);
    stream_id.or(request_id).or(envelope).unwrap_or_else(|| RequestId::from(""))
}
