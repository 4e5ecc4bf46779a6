//! Serving requests: each in a task of its own, and each answered, whatever becomes of its handler.

use std::sync::Arc;

use bytes::Bytes;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    Bus,
    local::{LocalIntake, LocalReply},
    nats::{NatsIntake, NatsReply},
    request::{Fault, Handler, MAX_CONCURRENT},
};

/// Requests of one kind being served, until dropped or stopped.
#[derive(Debug)]
pub struct Serving {
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
    _bus: Bus,
}

impl Serving {
    pub(crate) fn start(bus: Bus, intake: Intake, handler: Handler) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(intake, handler, stop.clone()));
        Self { stop, task: Some(task), _bus: bus }
    }

    /// Takes no more requests and completes when those being handled are answered.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            // It neither panics nor is aborted.
            let _ = task.await;
        }
    }

    /// Completes when the bus is closed.
    pub async fn stopped(&mut self) {
        if let Some(task) = &mut self.task {
            let _ = task.await;
            self.task = None;
        }
    }
}

impl Drop for Serving {
    /// Callers of unfinished handlers are told that the service stopped.
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

#[derive(Debug)]
pub(crate) enum Intake {
    Nats(NatsIntake),
    Local(LocalIntake),
}

impl Intake {
    async fn next(&mut self) -> Option<(Bytes, Reply)> {
        match self {
            Self::Nats(intake) => intake.next().await.map(|(payload, reply)| (payload, Reply::Nats(reply))),
            Self::Local(intake) => intake.recv().await.map(|(payload, reply)| (payload, Reply::Local(reply))),
        }
    }
}

enum Reply {
    Nats(NatsReply),
    Local(LocalReply),
}

impl Reply {
    async fn send(self, answer: Bytes) {
        match self {
            Self::Nats(reply) => reply.send(answer).await,
            Self::Local(reply) => {
                // The caller may have stopped waiting.
                let _ = reply.send(answer);
            }
        }
    }

    fn send_now(self, answer: Bytes) {
        match self {
            Self::Nats(reply) => reply.send_now(answer),
            Self::Local(reply) => {
                let _ = reply.send(answer);
            }
        }
    }
}

/// Answers with a fault when the handler was dropped or panicked before it could.
struct Pending(Option<Reply>);

impl Pending {
    async fn send(mut self, answer: Bytes) {
        if let Some(reply) = self.0.take() {
            reply.send(answer).await;
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(reply) = self.0.take() {
            let fault = if std::thread::panicking() { Fault::Panicked } else { Fault::Stopped };
            reply.send_now(fault.encode());
        }
    }
}

async fn run(mut intake: Intake, handler: Handler, stop: CancellationToken) {
    let mut running = JoinSet::new();
    loop {
        let next = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = running.join_next() => continue,
            next = intake.next() => next,
        };
        let Some((payload, reply)) = next else { break };
        if running.len() >= MAX_CONCURRENT {
            reply.send_now(Fault::Busy.encode());
            continue;
        }
        let pending = Pending(Some(reply));
        let handler = Arc::clone(&handler);
        running.spawn(async move {
            let answer = handler(payload).await;
            pending.send(answer).await;
        });
    }
    drop(intake);
    while running.join_next().await.is_some() {}
}
