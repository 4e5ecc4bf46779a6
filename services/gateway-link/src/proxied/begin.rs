//! How exchanges begin.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName};
use jiff::Timestamp;
use protocol::message::proxied::{
    Abort, Body, ProxyReply, ProxyRequest, TcpTunnelStart, UdpTunnelData, WebSocketStart,
};
use protocol::{RequestId, Target, TraceParent, identity};
use runtime::{Span, SpanKind};
use tokio::sync::oneshot;

use super::failure::Failure;
use super::inbox::{Pushed, inbox};
use super::reply::{Form, Replies};
use super::request::{self, Arriving, Mode, take_length};
use super::route::{self, Route, stream_path};
use super::udp::{Arrived, Session};
use super::websocket::{self, Opening};
use super::{Exchange, Input, MAX_NAME, Owner, Proxied, Rest, named, tcp};
use crate::metrics::{TunnelFailure, Unused, WebSocketFailure};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

impl Proxied {
    pub(super) fn request(&mut self, id: RequestId, request: ProxyRequest) {
        let websocket = request.wants_websocket();
        let begun = self.admits(&id)
            && match self.begin_request(&id, request) {
                Ok(()) => true,
                Err(failure) => {
                    self.refuse_for(&id, failure);
                    false
                }
            };
        if websocket && !begun {
            self.metrics.websockets.failed(WebSocketFailure::Refused);
        }
    }

    fn begin_request(&mut self, id: &RequestId, mut asked: ProxyRequest) -> Result<(), Failure> {
        let limit = asked.time_left(Timestamp::now()).unwrap_or(self.options.answer_timeout.get());
        if limit.is_zero() {
            return Err(Failure::said("the request's deadline had passed before it came here"));
        }
        let route = Route::of(&asked)?;
        let mode = if asked.supports_response_streaming {
            Mode::Streamed
        } else {
            Mode::Whole { max: self.options.max_response }
        };
        if asked.wants_websocket() {
            let path = if route == Route::Kube { stream_path(&asked.path)? } else { asked.path.clone() };
            let request = route::request("GET", &path, &asked.query, &asked.headers, &route)?;
            let protocols = asked.protocol.clone().unwrap_or_default();
            let head_data = asked.head_data()?;
            self.begin_websocket(id, Opening { route, request, protocols, head_data, limit, mode });
            return Ok(());
        }
        let mut request = route::request(&asked.method, &asked.path, &asked.query, &asked.headers, &route)?;
        let said = take_length(&mut request);
        let (inbox, outlet) = inbox(&self.budget, self.options.waiting);
        let (length, rest) = match asked.body()? {
            Body::Here(body) => {
                let length = body.len();
                if length > 0 {
                    self.fits(inbox.push(body, length))?;
                }
                inbox.end();
                (Some(length as u64), Rest::Nothing)
            }
            Body::Chunks => {
                // One that comes with the request is the first piece.
                asked.use_streaming = false;
                if let Body::Here(first) = asked.body()?
                    && !first.is_empty()
                {
                    let length = first.len();
                    self.fits(inbox.push(first, length))?;
                }
                (said, Rest::Chunks)
            }
            Body::NextBinary if self.link.carries_streams() => {
                return Err(Failure::said(
                    "body_binary is not possible once the link carries streams: send the body as base64 or in chunks",
                ));
            }
            Body::NextBinary => (said, Rest::Binary),
        };
        let mut span = self.trace(id, request.headers_mut());
        let request = request.map(|()| Arriving::new(outlet, length));
        let (upstream, budget) = (Arc::clone(&self.upstream), Arc::clone(&self.budget));
        let replies = Replies::new(self.link.clone(), id.clone(), Form::Request);
        self.spawn(Input::Body(inbox, rest), replies, |replies| async move {
            traced(&mut span, request::run(&upstream, &route, request, limit, mode, &budget, &replies)).await
        });
        Ok(())
    }

    pub(super) fn websocket_start(&mut self, id: Option<RequestId>, start: WebSocketStart) {
        let id = named(&start.stream_id, None, id);
        if !self.admits(&id) {
            return self.metrics.websockets.failed(WebSocketFailure::Refused);
        }
        let opening = stream_path(&start.path).and_then(|path| {
            let request = route::request("GET", &path, &start.query, &start.headers, &Route::Kube)?;
            Ok(Opening {
                route: Route::Kube,
                request,
                protocols: start.protocol,
                head_data: Bytes::new(),
                limit: self.options.answer_timeout.get(),
                mode: Mode::Whole { max: self.options.max_response },
            })
        });
        match opening {
            Ok(opening) => self.begin_websocket(&id, opening),
            Err(error) => {
                self.metrics.websockets.failed(WebSocketFailure::Refused);
                self.refuse_for(&id, error.into());
            }
        }
    }

    /// Of a body that came with its request.
    fn fits(&self, pushed: Pushed) -> Result<(), Failure> {
        match pushed {
            Pushed::Taken | Pushed::Half => Ok(()),
            full => Err(Failure::said(self.full(full))),
        }
    }

    /// Says in the request what it is called on both sides, and to which trace it belongs; the span ends with the exchange.
    fn trace(&self, id: &RequestId, headers: &mut HeaderMap) -> Span {
        headers.insert(identity::REQUEST_ID, identity::encode(id));
        let parent = TraceParent::from_headers(headers);
        let span = self.tracer.start("link.request", SpanKind::Server, parent.as_ref());
        if let Some(context) = span.context() {
            headers.insert(TRACEPARENT, context.to_header_value());
        }
        span
    }

    fn begin_websocket(&mut self, id: &RequestId, mut opening: Opening) {
        let mut span = self.trace(id, opening.request.headers_mut());
        let (inbox, outlet) = inbox(&self.budget, self.options.waiting);
        let (upstream, budget) = (Arc::clone(&self.upstream), Arc::clone(&self.budget));
        let metrics = Arc::clone(&self.metrics.websockets);
        let replies = match opening.route {
            Route::Kube => Replies::new(self.link.clone(), id.clone(), Form::Opening),
            Route::Service(_) => Replies::new(self.link.clone(), id.clone(), Form::Request).of_application(),
        };
        self.spawn(Input::WebSocket(inbox), replies, |replies| async move {
            traced(&mut span, websocket::run(&upstream, opening, outlet, &budget, &replies, &metrics)).await
        });
    }

    pub(super) fn tcp_start(&mut self, id: RequestId, start: &TcpTunnelStart) {
        if !self.admits(&id) {
            return;
        }
        let replies = Replies::new(self.link.clone(), id.clone(), Form::Tcp);
        let (inbox, outlet) = inbox(&self.budget, self.options.waiting);
        let target = Target::new(&start.service_namespace, &start.service_name, start.service_port);
        let tunnels = self.tunnels.clone();
        self.spawn(Input::Tcp(inbox), replies, |replies| async move {
            match target {
                Ok(target) => tcp::run(&tunnels, &target, outlet, &replies).await,
                Err(error) => tcp::refuse(&replies, format!("the tunnel does not name a Service: {error}")).await,
            }
        });
    }

    pub(super) fn udp_data(&mut self, datagram: UdpTunnelData) {
        let failed = |why| self.tunnels.udp_failed(why);
        let named = Target::new(&datagram.service_namespace, &datagram.service_name, datagram.service_port);
        let Ok(target) = named.inspect_err(|error| tracing::warn!(%error, "a datagram does not name a Service")) else {
            return self.metrics.unused(Unused::Malformed);
        };
        let UdpTunnelData { tunnel_id, client_addr, client_port, data, .. } = datagram;
        if tunnel_id.len() > MAX_NAME || client_addr.len() > MAX_NAME {
            return self.metrics.unused(Unused::Malformed);
        }
        let session = Session { tunnel_id, client_addr, client_port, target };
        if let Some(arrived) = self.sessions.get(&session) {
            for _ in 0..arrived.push(data.0) {
                failed(TunnelFailure::Dropped);
            }
            return;
        }
        if self.sessions.len() >= self.tunnels.options.udp.max_sessions {
            return failed(TunnelFailure::TooMany);
        }
        let arrived = Arc::new(Arrived::new(self.tunnels.options.udp.buffer_size));
        arrived.push(data.0);
        let (tunnels, link, owner) = (self.tunnels.clone(), self.link.clone(), session.clone());
        let queue = Arc::clone(&arrived);
        let task = self.tasks.spawn({
            let session = session.clone();
            async move { session.run(&tunnels, &queue, link).await }
        });
        self.owners.insert(task.id(), Owner::Session(owner));
        self.sessions.insert(session, arrived);
    }

    /// Whether an exchange may begin under this id; if not, that was said.
    fn admits(&mut self, id: &RequestId) -> bool {
        if id.is_empty() || id.len() > MAX_NAME {
            self.metrics.unused(Unused::Malformed);
            let error = format!("an id of {} bytes (request_id or stream_id): 1 to {MAX_NAME} are taken", id.len());
            self.say(None, &ProxyReply::Error(Abort::new(error)));
            return false;
        }
        if self.exchanges.contains_key(id) {
            self.metrics.unused(Unused::OutOfOrder);
            self.refuse(id, format!("an exchange with the id {:?} is under way already", &**id));
            return false;
        }
        if self.exchanges.len() >= self.options.max_exchanges {
            let max = self.options.max_exchanges;
            self.refuse(
                id,
                format!(
                    "{max} exchanges are under way on this link, as many as may be (proxied.max_exchanges of \
                     gateway-link); try again later"
                ),
            );
            return false;
        }
        true
    }

    fn spawn<F>(&mut self, input: Input, replies: Replies, run: impl FnOnce(Replies) -> F)
    where
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let (stop, stopped) = oneshot::channel();
        let metrics = Arc::clone(&self.metrics);
        let websocket = matches!(input, Input::WebSocket(_));
        let open = metrics.begun(websocket);
        let id = replies.id().clone();
        let running = run(replies.clone());
        let task = self.tasks.spawn(async move {
            let _open = open;
            let (outcome, stopped) = tokio::select! {
                biased;
                stopped = stopped => (Err(stopped.unwrap_or(Failure::Silent)), true),
                outcome = running => (outcome, false),
            };
            // What it has asked for is cancelled by now.
            if let Err(Failure::Said(error)) = outcome {
                metrics.failed();
                if websocket {
                    metrics.websockets.failed(match (stopped, replies.is(Form::Open)) {
                        (true, _) => WebSocketFailure::Stopped,
                        (false, true) => WebSocketFailure::Copy,
                        (false, false) => WebSocketFailure::Dial,
                    });
                }
                tracing::debug!(error, request = %replies.id(), "an exchange failed");
                let _gone = replies.fail(error).await;
            }
        });
        self.owners.insert(task.id(), Owner::Exchange(id.clone()));
        self.exchanges.insert(id, Exchange { stop: Some(stop), input });
    }
}

/// Notes in the span why an exchange failed.
async fn traced(span: &mut Span, running: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let outcome = running.await;
    if let Err(Failure::Said(error)) = &outcome {
        span.fail(error.clone());
    }
    outcome
}
