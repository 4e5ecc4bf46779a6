//! A plain HTTP server for bodies: takes any, gives as many bytes as asked for.

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
    thread::{self, JoinHandle},
};
use tokio::{net::TcpListener, sync::oneshot, task::JoinSet};

const PART: usize = 64 * 1024;
static ZEROS: [u8; PART] = [0; PART];

/// Where bodies go to: `PUT /` takes one, `GET /?LENGTH` gives one, `GET /readyz` is 200 as the API server's. Runs until dropped, on a
/// thread of its own, so that it does not wait for the client's turn.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Backend {
    pub(crate) fn start() -> Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port for the backend")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name("bench-backend".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener) => {}
                    // Either way, its handle is gone.
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

async fn serve(listener: std::net::TcpListener) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((tcp, _)) = listener.accept() => {
                drop(tcp.set_nodelay(true));
                let http = http1::Builder::new().serve_connection(TokioIo::new(tcp), service_fn(answer));
                connections.spawn(async move { drop(http.await) });
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

async fn answer(mut request: Request<Incoming>) -> Result<Response<Zeros>, hyper::Error> {
    let mut taken = 0;
    while !request.body().is_end_stream() {
        let next = std::future::poll_fn(|cx| Pin::new(request.body_mut()).poll_frame(cx)).await;
        match next.transpose()? {
            Some(frame) => taken += frame.data_ref().map_or(0, Bytes::len),
            None => break,
        }
    }
    let length = request.uri().query().and_then(|query| query.parse().ok()).unwrap_or_default();
    let asked_for = request.method() == Method::GET || taken > 0;
    let mut response = Response::new(Zeros(length));
    *response.status_mut() = if asked_for { StatusCode::OK } else { StatusCode::BAD_REQUEST };
    Ok(response)
}

/// This many bytes are to come.
struct Zeros(u64);

impl Body for Zeros {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let length = usize::try_from(self.0).unwrap_or(PART).min(PART);
        if length == 0 {
            return Poll::Ready(None);
        }
        self.0 -= length as u64;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&ZEROS).slice(..length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.0 == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0)
    }
}
