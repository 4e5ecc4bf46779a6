//! The way to the control plane: directly or by a proxy, TLS, then the WebSocket.

mod proxy;
mod request;
mod target;
mod trust;

use std::io;
use std::time::Duration;

use deflate::Deflated;
use http::{HeaderValue, Request, StatusCode, Uri, header};
use mux::Timed;
use protocol::{ClusterId, Secret, endpoint};
use runtime::tls::{NotPinned, Pin};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, protocol::WebSocketConfig};
use tokio_util::either::Either;
use tracing::field::display;

use crate::options::PipeOps;
use proxy::Proxy;
use target::Target;
use trust::{Peer, Trust};

pub type Socket = WebSocketStream<Deflated<Timed<Either<TlsStream<Carrier>, Carrier>>>>;

/// A connection to the control plane, or by TLS to a proxy. Boxed: that is rare, and the state of TLS is large.
type Carrier = Either<Box<TlsStream<TcpStream>>, TcpStream>;

type Stream = Either<TlsStream<Carrier>, Carrier>;

#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("{url:?} is not an address of a control plane: expected https://HOST[:PORT]")]
    Address { url: String },
    #[error("the token does not fit a header; does its file hold more than the token?")]
    TokenCharacters,
    #[error("the control plane names {url:?} as its gateway: expected wss://HOST[:PORT][/PATH]")]
    Gateway { url: String },
    #[error(
        "the control plane names {url:?} as its gateway, which has no TLS, while it has itself: the token is not shown to it"
    )]
    GatewayWithoutTls { url: String },
    #[error("TLS settings")]
    Tls(#[from] runtime::tls::TlsError),
    #[error("pipeops.tls.cert_file and pipeops.tls.key_file go together: only one is set")]
    HalfCertificate,
    #[error(
        "pipeops.{setting} is {shown:?}: expected http://[USER:PASSWORD@]HOST[:PORT] or https://..., with what is no letter \
         or digit in user and password as %XX"
    )]
    Proxy { setting: &'static str, shown: String },
    #[error("cannot connect to {address}")]
    Connect { address: String, source: io::Error },
    #[error("TLS handshake with {address} failed")]
    Handshake { address: String, source: io::Error },
    #[error(
        "{address} shows none of the keys in pipeops.tls.pins: {reason}. If its key was changed on purpose, add this pin; \
         otherwise somebody is on the way"
    )]
    NotPinned { address: String, reason: NotPinned },
    #[error("the proxy {proxy} answered {status} {reason} to CONNECT {address}{advice}")]
    ProxyRefused { proxy: String, address: String, status: u16, reason: String, advice: &'static str },
    #[error("the proxy {proxy} does not answer CONNECT as a proxy does")]
    ProxyBroken { proxy: String, source: io::Error },
    #[error("no connection to {address} within {after:?}: still waiting for {step}")]
    Timeout { address: String, after: Duration, step: String },
    /// The control plane does not accept this agent: nothing will change until somebody acts.
    #[error("the control plane at {address} refuses this agent ({status}): {reason}")]
    Refused { address: String, status: StatusCode, reason: String },
    #[error("the control plane at {address} answered {status} instead of opening a WebSocket: {reason}")]
    Answer { address: String, status: StatusCode, reason: String },
    #[error("a request to {address} failed")]
    Request { address: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("WebSocket handshake with {address} failed")]
    WebSocket { address: String, source: Box<tungstenite::Error> },
    #[error(
        "the control plane at {address} does not answer the offer to compress as it should (pipeops.compression = false \
         offers nothing)"
    )]
    Extensions { address: String, source: deflate::BadAnswer },
    #[error("the answer of {address} to the WebSocket handshake")]
    Answered { address: String, source: deflate::NoHead },
}

/// Opens WebSockets to one address of a control plane.
#[derive(Debug)]
pub struct Dialer {
    timeout: Duration,
    target: Target,
    /// With the query.
    path: String,
    proxy: Option<Proxy>,
    /// None for a control plane without TLS.
    trust: Option<Trust>,
    /// Of a proxy that speaks TLS.
    proxy_trust: Option<Trust>,
    compression: bool,
}

/// One attempt's time.
struct Limit {
    address: String,
    after: Duration,
    end: Instant,
}

impl Limit {
    async fn keep<T>(&self, step: String, taken: impl Future<Output = Result<T, DialError>>) -> Result<T, DialError> {
        let late = || DialError::Timeout { address: self.address.clone(), after: self.after, step };
        timeout_at(self.end, taken).await.unwrap_or_else(|_| Err(late()))
    }
}

impl Dialer {
    /// To where agents register. Fails for settings, and for files of certificates and keys, that cannot be used.
    pub fn new(options: &PipeOps) -> Result<Self, DialError> {
        let url = &options.api_url;
        let target = url.parse::<Uri>().ok().as_ref().and_then(Target::of);
        let target = target.ok_or_else(|| DialError::Address { url: url.clone() })?;
        Self::to(target, endpoint::AGENT_WS.to_owned(), options)
    }

    /// To the gateway that the control plane has named for `cluster`. Blocks.
    pub fn to_gateway(options: &PipeOps, url: &str, cluster: &ClusterId, version: &str) -> Result<Self, DialError> {
        let uri = url.parse::<Uri>().map_err(|_| DialError::Gateway { url: url.to_owned() })?;
        let target = Target::of(&uri).ok_or_else(|| DialError::Gateway { url: url.to_owned() })?;
        if !target.tls && Self::new(options)?.target.tls {
            return Err(DialError::GatewayWithoutTls { url: url.to_owned() });
        }
        let path = endpoint::gateway_path(&uri, cluster, version);
        Self::to(target, path, options)
    }

    fn to(target: Target, path: String, options: &PipeOps) -> Result<Self, DialError> {
        let proxy = Proxy::towards(&target, options)?;
        let trust = |peer, needed: bool| needed.then(|| Trust::open(peer, &options.tls)).transpose();
        Ok(Self {
            trust: trust(Peer::ControlPlane, target.tls)?,
            proxy_trust: trust(Peer::Proxy, proxy.as_ref().is_some_and(|proxy| proxy.at.tls))?,
            timeout: options.timeout.get(),
            target,
            path,
            proxy,
            compression: options.compression,
        })
    }

    /// Opens one, and shows `token`.
    pub async fn dial(&self, token: &Secret, config: WebSocketConfig) -> Result<Socket, DialError> {
        let token = bearer(token)?;
        let limit = self.limit(self.timeout);
        let address = limit.address.clone();
        let stream = self.stream(&limit).await?;
        if let Either::Left(stream) = &stream {
            let (_, session) = stream.get_ref();
            let key = session.peer_certificates().and_then(|chain| Pin::of(chain.first()?).ok());
            let (tls, server_key) = (session.protocol_version().and_then(|version| version.as_str()), key.map(display));
            tracing::info!(address, tls, server_key, "connected to the control plane");
        } else {
            tracing::warn!(address, "the link is not encrypted: pipeops.api_url begins with http://");
        }
        limit.keep("the WebSocket handshake".to_owned(), self.upgrade(stream, &token, address, config)).await
    }

    fn limit(&self, after: Duration) -> Limit {
        let address = match &self.proxy {
            Some(proxy) => format!("{} by way of the proxy {proxy}", self.target.address()),
            None => self.target.address(),
        };
        Limit { address, after, end: Instant::now() + after }
    }

    /// A connection on which nothing was said yet. The files of certificates and of the key are read anew.
    async fn stream(&self, limit: &Limit) -> Result<Stream, DialError> {
        let address = &limit.address;
        let carrier = match &self.proxy {
            Some(proxy) => self.carrier_by_way_of(proxy, limit).await?,
            None => Either::Right(limit.keep("TCP".to_owned(), connect(&self.target, address)).await?),
        };
        let Some(trust) = &self.trust else { return Ok(Either::Right(carrier)) };
        let handshake = handshake(trust, &self.target, address, carrier);
        Ok(Either::Left(limit.keep("the TLS handshake".to_owned(), handshake).await?))
    }

    async fn carrier_by_way_of(&self, proxy: &Proxy, limit: &Limit) -> Result<Carrier, DialError> {
        let name = format!("the proxy {proxy}");
        let tcp = limit.keep(name.clone(), connect(&proxy.at, &name)).await?;
        let mut carrier = match &self.proxy_trust {
            Some(trust) => {
                let handshake = handshake(trust, &proxy.at, &name, tcp);
                Either::Left(Box::new(limit.keep(format!("the TLS handshake with {name}"), handshake).await?))
            }
            None => Either::Right(tcp),
        };
        limit.keep(format!("{name} to answer CONNECT"), proxy.connect(&mut carrier, &self.target)).await?;
        Ok(carrier)
    }

    async fn upgrade(
        &self,
        stream: Stream,
        token: &HeaderValue,
        address: String,
        config: WebSocketConfig,
    ) -> Result<Socket, DialError> {
        let request = self.upgrade_request(token)?;
        // Timed below: what is compressed shows life as it comes, and not only when it is whole.
        let stream = Timed::new(stream);
        let stream = if self.compression { Deflated::offering(stream) } else { Deflated::plain(stream) };
        match tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await {
            Ok((socket, response)) => self.settle(socket, &response, address, config),
            Err(tungstenite::Error::Http(response)) => Err(refusal(address, &response)),
            Err(source) => Err(DialError::WebSocket { address, source: Box::new(source) }),
        }
    }

    /// Whether messages are compressed is in the control plane's answer.
    fn settle(
        &self,
        mut socket: Socket,
        response: &tungstenite::handshake::client::Response,
        address: String,
        config: WebSocketConfig,
    ) -> Result<Socket, DialError> {
        let compressed = match deflate::accepted(response.headers(), self.compression) {
            Ok(compressed) => compressed,
            Err(source) => return Err(DialError::Extensions { address, source }),
        };
        let limit = compressed.then(|| config.max_message_size.unwrap_or(usize::MAX));
        if let Err(source) = socket.get_mut().settle(limit) {
            return Err(DialError::Answered { address, source });
        }
        if self.compression {
            tracing::info!(address, compressed, "the control plane has answered the offer to compress");
        }
        Ok(socket)
    }

    fn upgrade_request(&self, token: &HeaderValue) -> Result<Request<()>, DialError> {
        let scheme = if self.target.tls { "wss" } else { "ws" };
        let url = format!("{scheme}://{}{}", self.target.address(), self.path);
        let mut request = url.as_str().into_client_request().map_err(|_| DialError::Address { url: url.clone() })?;
        request.headers_mut().insert(header::AUTHORIZATION, token.clone());
        if self.compression {
            request.headers_mut().insert(header::SEC_WEBSOCKET_EXTENSIONS, deflate::OFFER);
        }
        Ok(request)
    }
}

/// `address` is what errors call the target.
async fn connect(target: &Target, address: &str) -> Result<TcpStream, DialError> {
    let tcp = TcpStream::connect((target.bare_host(), target.port)).await;
    tcp.and_then(|tcp| runtime::tcp::tune(&tcp).map(|()| tcp))
        .map_err(|source| DialError::Connect { address: address.to_owned(), source })
}

async fn handshake<S>(trust: &Trust, target: &Target, address: &str, stream: S) -> Result<TlsStream<S>, DialError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let failed = |source: io::Error| match NotPinned::reason_of(&source) {
        Some(reason) => DialError::NotPinned { address: address.to_owned(), reason: reason.clone() },
        None => DialError::Handshake { address: address.to_owned(), source },
    };
    let name = ServerName::try_from(target.bare_host().to_owned()).map_err(|e| failed(io::Error::other(e)))?;
    trust.connector().await.connect(name, stream).await.map_err(failed)
}

fn bearer(token: &Secret) -> Result<HeaderValue, DialError> {
    let mut value =
        HeaderValue::try_from(format!("Bearer {}", token.expose())).map_err(|_| DialError::TokenCharacters)?;
    value.set_sensitive(true);
    Ok(value)
}

fn refusal(address: String, response: &http::Response<Option<Vec<u8>>>) -> DialError {
    let status = response.status();
    let body = response.body().as_deref().unwrap_or_default();
    let reason = match serde_json::from_slice::<protocol::Status>(body) {
        Ok(status) => status.message,
        Err(_) => String::from_utf8_lossy(body).chars().take(200).collect(),
    };
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => DialError::Refused { address, status, reason },
        _ => DialError::Answer { address, status, reason },
    }
}
