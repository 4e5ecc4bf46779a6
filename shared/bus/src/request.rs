//! Request and reply: the typed surface, and the answer as it travels.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{ConnectError, Service};

/// How long a caller waits for an answer, unless the request says otherwise.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Handlers running at once per [`Serving`](crate::Serving); over it a caller is told at once.
pub(crate) const MAX_CONCURRENT: usize = 256;

/// One kind of request: its payload is the implementing type, as JSON.
pub trait Request: Serialize + DeserializeOwned + Send + 'static {
    /// The literal subject; it must be in [`subjects::TABLE`](crate::subjects::TABLE).
    const SUBJECT: &'static str;
    /// The service whose replicas share the requests.
    const SERVED_BY: Service;
    type Reply: Serialize + DeserializeOwned + Send + 'static;
    /// What the handler may answer instead; it reaches the caller as it was.
    type Error: Serialize + DeserializeOwned + Send + 'static;
    /// How long a caller waits for an answer.
    const TIMEOUT: Duration = REQUEST_TIMEOUT;
}

/// How a request ended when not in a reply.
#[derive(Debug, thiserror::Error)]
pub enum RequestError<E> {
    /// The handler's own error.
    #[error("{0}")]
    Typed(E),
    /// Nobody serves this subject now.
    #[error("no service answers on this subject")]
    NoResponder,
    /// No answer within this time; the request may have been carried out.
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The bus, or the service behind it, cannot be used now.
    #[error("{0}")]
    Unavailable(String),
    /// One side could not read what the other sent.
    #[error("malformed message: {0}")]
    Malformed(String),
    /// The bus user may not publish to this subject.
    #[error("the bus denies {0}")]
    Denied(String),
}

/// Why requests could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the bus is closed")]
    Closed,
    #[error("cannot connect to the bus")]
    Connect(#[from] ConnectError),
    #[error("the bus denies subscribing to {0}")]
    Denied(String),
}

/// What travels back. A fault is the bus's own word, when the handler had none.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer<R, E> {
    Ok(R),
    Error(E),
    Fault(Fault),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Fault {
    /// The handler panicked.
    Panicked,
    /// The instance stopped before the handler was done.
    Stopped,
    /// Too many handlers are running.
    Busy,
    /// The request or the reply could not be read or written as JSON.
    Malformed { message: String },
}

impl Fault {
    /// The whole answer; written by hand where serialisation itself may be what failed.
    pub(crate) fn encode(self) -> Bytes {
        let answer: Answer<(), ()> = Answer::Fault(self);
        match serde_json::to_vec(&answer) {
            Ok(json) => json.into(),
            Err(_) => Bytes::from_static(br#"{"fault":{"kind":"stopped"}}"#),
        }
    }
}

pub(crate) fn encode_request<R: Request>(request: &R) -> Result<Bytes, RequestError<R::Error>> {
    serde_json::to_vec(request).map(Bytes::from).map_err(|error| RequestError::Malformed(error.to_string()))
}

pub(crate) fn decode_answer<R: Request>(payload: &[u8]) -> Result<R::Reply, RequestError<R::Error>> {
    match serde_json::from_slice::<Answer<R::Reply, R::Error>>(payload) {
        Ok(Answer::Ok(reply)) => Ok(reply),
        Ok(Answer::Error(error)) => Err(RequestError::Typed(error)),
        Ok(Answer::Fault(fault)) => Err(match fault {
            Fault::Panicked => RequestError::Unavailable("the service failed while handling the request".to_owned()),
            Fault::Stopped => RequestError::Unavailable("the service stopped before it answered".to_owned()),
            Fault::Busy => RequestError::Unavailable("the service has too many requests".to_owned()),
            Fault::Malformed { message } => RequestError::Malformed(message),
        }),
        Err(error) => Err(RequestError::Malformed(error.to_string())),
    }
}

/// A handler with its types erased: request bytes to answer bytes.
pub(crate) type Handler = Arc<dyn Fn(Bytes) -> Pin<Box<dyn Future<Output = Bytes> + Send>> + Send + Sync>;

pub(crate) fn erase<R, H, Fut>(handler: H) -> Handler
where
    R: Request,
    H: Fn(R) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R::Reply, R::Error>> + Send + 'static,
{
    let handler = Arc::new(handler);
    Arc::new(move |payload| {
        let handler = Arc::clone(&handler);
        Box::pin(async move {
            let request = match serde_json::from_slice::<R>(&payload) {
                Ok(request) => request,
                Err(error) => return Fault::Malformed { message: error.to_string() }.encode(),
            };
            let answer = match handler(request).await {
                Ok(reply) => Answer::Ok(reply),
                Err(error) => Answer::Error(error),
            };
            match serde_json::to_vec(&answer) {
                Ok(json) => json.into(),
                Err(error) => Fault::Malformed { message: error.to_string() }.encode(),
            }
        })
    })
}
