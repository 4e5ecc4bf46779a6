//! Request and reply on NATS.

use std::{
    error::Error as _,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use async_nats::{Client, RequestErrorKind, Subject, Subscriber};
use bytes::Bytes;
use futures::StreamExt as _;
use protocol::StreamKind;
use tokio::sync::broadcast;

use super::{NatsBus, NatsListener, Signals, connection::Events};
use crate::{
    BusStream, ConnectError, OpenError, OpenHeader, Request, RequestError, ServeError, Status, ledger::Ledger, request,
    subjects,
};

/// Completes when the server refuses a publish to `subject`.
pub(super) async fn denial(denied: &mut broadcast::Receiver<Arc<str>>, subject: &str) {
    loop {
        match denied.recv().await {
            Ok(denied) if &*denied == subject => return,
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

#[derive(Debug)]
pub(super) struct RpcEvents {
    pub(super) signals: Arc<Signals>,
    pub(super) ledger: Arc<Ledger>,
}

impl Events for RpcEvents {
    fn connected(&self) {
        self.signals.rpc.send_replace(Status::Connected);
        self.signals.refresh();
    }

    fn disconnected(&self, reason: &str) {
        self.ledger.disconnects.fetch_add(1, Relaxed);
        self.signals.rpc.send_replace(Status::Disconnected { reason: reason.to_owned() });
        self.signals.refresh();
    }

    fn failing(&self, reason: &str) {
        self.signals.rpc.send_if_modified(|status| match status {
            Status::Connected => false,
            Status::Disconnected { reason: last } => {
                reason.clone_into(last);
                true
            }
        });
        self.signals.refresh();
    }

    fn denied(&self, subject: &str) {
        let _ = self.signals.denied.send(subject.into());
    }

    fn slow(&self) {
        self.ledger.slow.fetch_add(1, Relaxed);
        tracing::error!("the bus client dropped requests");
    }
}

impl NatsBus {
    pub(crate) async fn request<R: Request>(&self, request: &R) -> Result<R::Reply, RequestError<R::Error>> {
        let payload = request::encode_request(request)?;
        let mut status = self.signals.rpc.subscribe();
        let down = |status: &Status| match status {
            Status::Connected => None,
            Status::Disconnected { reason } => Some(RequestError::Unavailable(reason.clone())),
        };
        if let Some(error) = down(&status.borrow_and_update()) {
            return Err(error);
        }
        let mut denied = self.signals.denied.subscribe();
        let request = async_nats::Request::new().payload(payload).timeout(Some(R::TIMEOUT));
        let answer = tokio::select! {
            answer = self.rpc.send_request(R::SUBJECT, request) => answer,
            () = denial(&mut denied, R::SUBJECT) => return Err(RequestError::Denied(R::SUBJECT.to_owned())),
            Ok(status) = status.wait_for(|status| *status != Status::Connected) => {
                return Err(down(&status).unwrap_or(RequestError::Timeout(R::TIMEOUT)));
            }
        };
        match answer {
            Ok(message) => request::decode_answer::<R>(&message.payload),
            Err(error) => Err(match error.kind() {
                RequestErrorKind::NoResponders => RequestError::NoResponder,
                RequestErrorKind::TimedOut => RequestError::Timeout(R::TIMEOUT),
                RequestErrorKind::MaxPayloadExceeded => RequestError::Malformed(error.to_string()),
                _ => RequestError::Unavailable(error.to_string()),
            }),
        }
    }

    pub(crate) async fn intake<R: Request>(&self) -> Result<NatsIntake, ServeError> {
        let group = self.service.as_str().to_owned();
        match self.rpc.queue_subscribe(R::SUBJECT, group).await {
            Ok(subscriber) => Ok(NatsIntake { subscriber, client: self.rpc.clone() }),
            Err(_) => Err(ServeError::Closed),
        }
    }

    pub(crate) async fn open(
        &self,
        kind: StreamKind,
        header: &OpenHeader,
        first: Bytes,
    ) -> Result<BusStream, OpenError> {
        if self.closed.load(Relaxed) {
            return Err(OpenError::Unavailable("bus closed".to_owned()));
        }
        self.io().await.map_err(unavailable)?.open(kind, header, first).await
    }

    pub(crate) async fn listen(&self, kind: StreamKind) -> Result<NatsListener, ServeError> {
        let io = self.io().await?;
        let client = io.client().ok_or(ServeError::Closed)?;
        let group = self.service.as_str().to_owned();
        let subscriber =
            client.queue_subscribe(subjects::stream_open(kind), group).await.map_err(|_| ServeError::Closed)?;
        Ok(NatsListener::new(Arc::clone(io), subscriber, kind))
    }
}

/// The cause too: it is a setting, and what is wrong with it.
fn unavailable(error: ConnectError) -> OpenError {
    let cause = error.source().map_or_else(String::new, |cause| format!(": {cause}"));
    OpenError::Unavailable(format!("{error}{cause}"))
}

/// The requests that reach this instance.
#[derive(Debug)]
pub(crate) struct NatsIntake {
    subscriber: Subscriber,
    client: Client,
}

impl NatsIntake {
    /// Those without a reply subject cannot be answered, so they are not carried out.
    pub(crate) async fn next(&mut self) -> Option<(Bytes, NatsReply)> {
        loop {
            let message = self.subscriber.next().await?;
            if let Some(subject) = message.reply {
                return Some((message.payload, NatsReply { client: self.client.clone(), subject }));
            }
        }
    }
}

/// Where one answer goes.
#[derive(Debug)]
pub(crate) struct NatsReply {
    client: Client,
    subject: Subject,
}

impl NatsReply {
    pub(crate) async fn send(self, answer: Bytes) {
        if answer.len() > self.client.max_payload() {
            let message = format!("the answer of {} bytes is larger than the bus allows", answer.len());
            self.send_now(request::Fault::Malformed { message }.encode());
        } else if self.client.publish(self.subject, answer).await.is_err() {
            tracing::warn!("answer lost: the bus is closed");
        }
    }

    /// From where nobody can wait; lost when the client's queue is full.
    pub(crate) fn send_now(self, answer: Bytes) {
        super::try_publish(&self.client, self.subject, answer);
    }
}
