//! The server's part of a WebSocket's handshake (RFC 6455, section 4.2).

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use protocol::hop;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// The 101 for `request`, without a subprotocol. None: it does not ask for a WebSocket of version 13.
pub fn accept<B>(request: &Request<B>) -> Option<Response<()>> {
    let headers = request.headers();
    let version = headers.get(header::SEC_WEBSOCKET_VERSION)?;
    if !hop::upgrades_to_websocket(headers) || request.method() != Method::GET || version.as_bytes() != b"13" {
        return None;
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?;
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answer = response.headers_mut();
    answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    answer.insert(header::SEC_WEBSOCKET_ACCEPT, HeaderValue::try_from(derive_accept_key(key.as_bytes())).ok()?);
    Some(response)
}
