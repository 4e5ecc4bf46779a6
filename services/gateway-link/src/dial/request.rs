//! One request to the control plane's REST endpoints, with all that a link is made with: proxy, trust, pins, the token.

use std::error::Error;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use protocol::Secret;

use super::{DialError, Dialer, bearer};

/// More of an answer is not read.
const LARGEST: usize = 8 << 20;

impl Dialer {
    /// Sends a request on a connection of its own, its body JSON if it has one, and reads the answer to its end.
    pub async fn request(
        &self,
        method: Method,
        token: &Secret,
        path: &str,
        json: Vec<u8>,
        after: Duration,
    ) -> Result<Response<Bytes>, DialError> {
        let limit = self.limit(after);
        let failed =
            |source: Box<dyn Error + Send + Sync>| DialError::Request { address: limit.address.clone(), source };
        let mut request = Request::new(Full::new(Bytes::from(json)));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().map_err(|error: http::uri::InvalidUri| failed(error.into()))?;
        let host = HeaderValue::try_from(self.target.address()).map_err(|error| failed(error.into()))?;
        let headers = request.headers_mut();
        headers.insert(header::HOST, host);
        headers.insert(header::AUTHORIZATION, bearer(token)?);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));

        let stream = self.stream(&limit).await?;
        let exchange = async {
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            let answer = async {
                let (head, body) = sender.send_request(request).await?.into_parts();
                let body = Limited::new(body, LARGEST).collect().await?.to_bytes();
                Ok(Response::from_parts(head, body))
            };
            let (mut answer, mut connection) = (pin!(answer), pin!(connection));
            tokio::select! {
                biased;
                answer = &mut answer => answer,
                // What it has read before it ended is still to be had.
                ended = &mut connection => match ended {
                    Ok(()) => answer.await,
                    Err(error) => Err(error.into()),
                },
            }
        };
        limit.keep("the answer".to_owned(), async { exchange.await.map_err(failed) }).await
    }
}
