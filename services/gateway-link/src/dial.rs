use std::io;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderValue, Request, StatusCode, Uri, header};
use mux::Timed;
use protocol::{Secret, endpoint};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, protocol::WebSocketConfig};
use tokio_util::either::Either;

use crate::options::PipeOps;

pub type Socket = WebSocketStream<Timed<Either<TlsStream<TcpStream>, TcpStream>>>;

#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("{url:?} is not an address of a control plane: expected https://HOST[:PORT]")]
    Address { url: String },
    #[error("no token: set PIPEOPS_TOKEN or PIPEOPS_TOKEN_FILE")]
    NoToken,
    #[error("cannot read the token file {path:?}")]
    TokenFile { path: PathBuf, source: io::Error },
    #[error("the token does not fit a header; does its file hold more than the token?")]
    TokenCharacters,
    #[error("TLS settings")]
    Tls(#[from] runtime::tls::TlsError),
    #[error("cannot connect to {address}")]
    Connect { address: String, source: io::Error },
    #[error("TLS handshake with {address} failed")]
    Handshake { address: String, source: io::Error },
    #[error("no connection to {address} within {after:?}")]
    Timeout { address: String, after: Duration },
    /// The control plane does not accept the token: nothing will change until somebody acts.
    #[error("the control plane at {address} refuses this agent's token ({status}): {reason}")]
    Refused { address: String, status: StatusCode, reason: String },
    #[error("the control plane at {address} answered {status} instead of opening a WebSocket: {reason}")]
    Answer { address: String, status: StatusCode, reason: String },
    #[error("WebSocket handshake with {address} failed")]
    WebSocket { address: String, source: Box<tungstenite::Error> },
}

/// Opens the WebSocket to the control plane. Token and CA files are read anew each time.
pub async fn dial(options: &PipeOps, config: WebSocketConfig) -> Result<Socket, DialError> {
    let target = Target::parse(&options.api_url)?;
    let token = token(options)?;
    let after = options.timeout.get();
    timeout(after, open(options, &target, &token, config))
        .await
        .unwrap_or_else(|_| Err(DialError::Timeout { address: target.address(), after }))
}

struct Target {
    host: String,
    port: u16,
    tls: bool,
}

impl Target {
    fn parse(url: &str) -> Result<Self, DialError> {
        let malformed = || DialError::Address { url: url.to_owned() };
        let uri: Uri = url.parse().map_err(|_| malformed())?;
        let tls = match uri.scheme_str() {
            Some("https" | "wss") => true,
            Some("http" | "ws") => false,
            _ => return Err(malformed()),
        };
        let host = uri.host().ok_or_else(malformed)?.to_owned();
        Ok(Self { host, port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }), tls })
    }

    fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    fn bare_host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }
}

fn token(options: &PipeOps) -> Result<HeaderValue, DialError> {
    let token = match (&options.token_file, &options.token) {
        (Some(path), _) => std::fs::read_to_string(path)
            .map(|text| Secret::new(text.trim()))
            .map_err(|source| DialError::TokenFile { path: path.clone(), source })?,
        (None, Some(token)) => token.clone(),
        (None, None) => return Err(DialError::NoToken),
    };
    if token.is_empty() {
        return Err(DialError::NoToken);
    }
    let mut value =
        HeaderValue::try_from(format!("Bearer {}", token.expose())).map_err(|_| DialError::TokenCharacters)?;
    value.set_sensitive(true);
    Ok(value)
}

async fn open(
    options: &PipeOps,
    target: &Target,
    token: &HeaderValue,
    config: WebSocketConfig,
) -> Result<Socket, DialError> {
    let address = target.address();
    let tcp = TcpStream::connect((target.bare_host(), target.port))
        .await
        .and_then(|tcp| runtime::tcp::tune(&tcp).map(|()| tcp))
        .map_err(|source| DialError::Connect { address: address.clone(), source })?;
    let stream = if target.tls {
        let trust = runtime::tls::ClientTrust {
            ca_file: options.tls.ca_file.as_deref(),
            insecure_skip_verify: options.tls.insecure_skip_verify,
            ..runtime::tls::ClientTrust::default()
        };
        let failed = |source| DialError::Handshake { address: address.clone(), source };
        let name = ServerName::try_from(target.bare_host().to_owned()).map_err(|e| failed(io::Error::other(e)))?;
        let connector = TlsConnector::from(runtime::tls::client_config(trust, &[b"http/1.1"])?);
        Either::Left(connector.connect(name, tcp).await.map_err(failed)?)
    } else {
        tracing::warn!(%address, "the link is not encrypted: pipeops.api_url begins with http://");
        Either::Right(tcp)
    };
    let request = upgrade_request(target, token)?;
    match tokio_tungstenite::client_async_with_config(request, Timed::new(stream), Some(config)).await {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::Error::Http(response)) => Err(refusal(address, &response)),
        Err(source) => Err(DialError::WebSocket { address, source: Box::new(source) }),
    }
}

fn upgrade_request(target: &Target, token: &HeaderValue) -> Result<Request<()>, DialError> {
    let scheme = if target.tls { "wss" } else { "ws" };
    let url = format!("{scheme}://{}{}", target.address(), endpoint::AGENT_WS);
    let mut request = url.as_str().into_client_request().map_err(|_| DialError::Address { url: url.clone() })?;
    request.headers_mut().insert(header::AUTHORIZATION, token.clone());
    Ok(request)
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
