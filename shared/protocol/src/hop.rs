//! Headers that belong to one connection and must not be forwarded (RFC 9110 §7.6.1).

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Hop-by-hop whether `Connection` names them or not. `Trailer` is not among them: it describes the message.
const ALWAYS: [HeaderName; 8] = [
    header::CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Removes `Connection`, what it names, and the other hop-by-hop headers.
///
/// `Connection` cannot remove what decides about the message itself (host, length and type of the body, identity): a
/// client that names those would otherwise change what the next hop sees. Take [`upgrade_type`] before, when the
/// upgrade is to be forwarded. Allocates only when `Connection` names further headers.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let mut named: Vec<HeaderName> = Vec::new();
    for token in connection_tokens(headers) {
        if token.eq_ignore_ascii_case(b"close")
            || ALWAYS.iter().any(|n| token.eq_ignore_ascii_case(n.as_str().as_bytes()))
        {
            continue;
        }
        if let Ok(name) = HeaderName::from_bytes(token)
            && !is_protected(&name)
            && headers.contains_key(&name)
        {
            named.push(name);
        }
    }
    for name in &named {
        headers.remove(name);
    }
    for name in &ALWAYS {
        headers.remove(name);
    }
}

/// The protocol that the message asks to switch to: `Upgrade`, when `Connection` names it. `None` for an ordinary one.
pub fn upgrade_type(headers: &HeaderMap) -> Option<HeaderValue> {
    let value = headers.get(header::UPGRADE)?;
    connection_tokens(headers).any(|token| token.eq_ignore_ascii_case(b"upgrade")).then(|| value.clone())
}

/// Whether the message asks to switch to WebSocket, or says that it does.
pub fn upgrades_to_websocket(headers: &HeaderMap) -> bool {
    upgrade_type(headers).is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Makes a request's headers fit for the next hop: hop-by-hop headers go, except an upgrade and the wish for trailers,
/// which this hop passes on. True if the request asks for an upgrade; one with a body is served without, as a server
/// may.
pub fn forward_request(headers: &mut HeaderMap, has_body: bool) {
    let upgrade = upgrade_type(headers).filter(|_| !has_body);
    let trailers = headers
        .get_all(header::TE)
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"));
    strip_hop_by_hop(headers);
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
}

fn is_protected(name: &HeaderName) -> bool {
    [header::HOST, header::CONTENT_LENGTH, header::CONTENT_TYPE, header::CONTENT_ENCODING, header::AUTHORIZATION]
        .contains(name)
        || crate::identity::is_identity(name)
}

fn connection_tokens(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn hop_by_hop_headers_and_those_named_by_connection_go() {
        let mut headers = map(&[
            ("connection", "close, X-Custom"),
            ("connection", "keep-alive,,other"),
            ("x-custom", "1"),
            ("x-custom", "2"),
            ("other", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authenticate", "Basic"),
            ("proxy-authorization", "Basic eA=="),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("trailer", "x-sum"),
            ("accept", "*/*"),
            ("content-length", "3"),
        ]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("trailer", "x-sum"), ("accept", "*/*"), ("content-length", "3")]));
    }

    #[test]
    fn connection_cannot_remove_identity_or_framing() {
        let kept = [("host", "h"), ("content-length", "3"), ("x-pipeops-user", "alice"), ("authorization", "Bearer x")];
        let mut headers = map(&kept);
        headers.append("connection", "host, content-length, x-pipeops-user, authorization".parse().unwrap());
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&kept));
    }

    #[test]
    fn an_upgrade_needs_both_headers() {
        assert_eq!(upgrade_type(&map(&[("upgrade", "websocket")])), None);
        assert_eq!(upgrade_type(&map(&[("connection", "upgrade")])), None);
        let both = map(&[("connection", "keep-alive, Upgrade"), ("upgrade", "SPDY/3.1")]);
        assert_eq!(upgrade_type(&both), Some(HeaderValue::from_static("SPDY/3.1")));
    }

    #[test]
    fn an_upgrade_and_the_wish_for_trailers_are_passed_on() {
        let mut plain = map(&[("connection", "close"), ("te", "gzip, Trailers"), ("accept", "*/*")]);
        forward_request(&mut plain, true);
        assert_eq!(plain, map(&[("te", "trailers"), ("accept", "*/*")]));
        let mut session = map(&[("connection", "keep-alive, upgrade"), ("upgrade", "SPDY/3.1"), ("keep-alive", "5")]);
        forward_request(&mut session, false);
        assert_eq!(session, map(&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1")]));
        let mut post = map(&[("connection", "upgrade"), ("upgrade", "h2c"), ("content-length", "3")]);
        forward_request(&mut post, true);
        assert_eq!(post, map(&[("content-length", "3")]), "an upgrade would lose the body");
    }

    proptest! {
        #[test]
        fn no_connection_header_leaves_a_hop_by_hop_header(values in prop::collection::vec("[ -~]{0,40}", 0..4)) {
            let mut headers = map(&[("te", "x"), ("upgrade", "y"), ("accept", "z")]);
            for value in &values {
                headers.append("connection", value.parse().unwrap());
            }
            strip_hop_by_hop(&mut headers);
            prop_assert!(ALWAYS.iter().all(|name| !headers.contains_key(name)));
        }
    }
}
