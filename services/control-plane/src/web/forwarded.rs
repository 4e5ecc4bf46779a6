//! What an app is told of the client in front of the gateway.

use std::net::{IpAddr, Ipv4Addr};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::Authority;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const REAL_IP: &str = "x-real-ip";
const FORWARDED: &str = "forwarded";

/// What is known of a request's client.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    pub address: Option<IpAddr>,
    pub tls: bool,
    /// A load balancer of ours, which is believed.
    pub trusted: bool,
    pub authority: &'a Authority,
}

impl Sender<'_> {
    /// Whether the client itself came by HTTPS.
    pub fn is_secure(&self, headers: &HeaderMap) -> bool {
        let said = headers.get(PROTO).filter(|_| self.trusted);
        // Of several proxies, the first has seen the client.
        let first = said.and_then(|list| list.as_bytes().split(|byte| *byte == b',').next());
        first.map_or(self.tls, |proto| proto.trim_ascii().eq_ignore_ascii_case(b"https"))
    }

    /// Writes the headers. What is there already stays, and is added to, only where it is believed.
    pub fn write(&self, headers: &mut HeaderMap) {
        let secure = self.is_secure(headers);
        if !self.trusted {
            let told: Vec<_> = headers.keys().filter(|name| tells_of_client(name)).cloned().collect();
            for name in told {
                headers.remove(name);
            }
        }
        // Gone already, an address that is none.
        let address = self.address.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.to_canonical());
        let scheme = if self.tls { "https" } else { "http" };
        let port = self.authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let node = if address.is_ipv4() { address.to_string() } else { format!("\"[{address}]\"") };
        append(headers, FOR, &address.to_string());
        append(headers, header::FORWARDED, &format!("for={node};host=\"{}\";proto={scheme}", self.authority));
        for (name, value) in [(PROTO, scheme), (HOST, self.authority.as_str()), (PORT, &port.to_string())] {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.entry(name).or_insert(value);
            }
        }
    }
}

/// Whether apps take it for what a proxy says of the client. To those that get headers as environment variables (CGI, WSGI)
/// `_` and `-` are the same.
fn tells_of_client(name: &HeaderName) -> bool {
    let name = name.as_str().replace('_', "-");
    name == FORWARDED || name == REAL_IP || name.starts_with("x-forwarded-")
}

/// Behind what is there, as one list.
fn append(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    let mut list: Vec<u8> = Vec::new();
    for part in headers.get_all(&name).iter().map(HeaderValue::as_bytes).chain([value.as_bytes()]) {
        if !list.is_empty() {
            list.extend_from_slice(b", ");
        }
        list.extend_from_slice(part);
    }
    if let Ok(value) = HeaderValue::try_from(list) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(sender: Sender<'_>, said: &[(&'static str, &'static str)]) -> Vec<(String, String)> {
        let mut headers = HeaderMap::new();
        for (name, value) in said {
            headers.append(*name, HeaderValue::from_static(value));
        }
        sender.write(&mut headers);
        let mut told: Vec<_> =
            headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
        told.sort();
        told
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_a_stranger_says_is_replaced_and_what_a_load_balancer_says_is_added_to() {
        let authority: Authority = "shop.example.com:8443".parse().unwrap();
        let stranger =
            Sender { address: Some("::1".parse().unwrap()), tls: true, trusted: false, authority: &authority };
        let lies = [
            ("x-forwarded-for", "9.9.9.9"),
            ("x_forwarded_for", "9.9.9.9"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-user", "admin"),
            ("forwarded", "for=x"),
            ("x-real-ip", "9"),
        ];
        assert_eq!(
            told(stranger, &lies),
            pairs(&[
                ("forwarded", "for=\"[::1]\";host=\"shop.example.com:8443\";proto=https"),
                ("x-forwarded-for", "::1"),
                ("x-forwarded-host", "shop.example.com:8443"),
                ("x-forwarded-port", "8443"),
                ("x-forwarded-proto", "https"),
            ])
        );
        let ours = Sender { address: Some("::ffff:10.0.0.1".parse().unwrap()), tls: false, trusted: true, ..stranger };
        let said = [("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "2.2.2.2"), ("x-forwarded-proto", "https")];
        let told = told(ours, &said);
        assert!(told.contains(&("x-forwarded-for".into(), "1.1.1.1, 2.2.2.2, 10.0.0.1".into())), "{told:?}");
        assert!(told.contains(&("x-forwarded-proto".into(), "https".into())), "{told:?}");
        let mut headers = HeaderMap::from_iter([(PROTO, HeaderValue::from_static("https"))]);
        assert!(ours.is_secure(&headers) && !Sender { trusted: false, ..ours }.is_secure(&headers));
        for (said, secure) in [("https, http", true), ("HTTPS,http", true), ("http,https", false), ("", false)] {
            headers.insert(PROTO, HeaderValue::from_static(said));
            assert_eq!(ours.is_secure(&headers), secure, "{said:?}");
        }
        headers.clear();
        assert!(!ours.is_secure(&headers));
        let plain: Authority = "shop.example.com".parse().unwrap();
        let told = self::told(Sender { authority: &plain, ..ours }, &[("x-forwarded-proto", "https")]);
        assert!(told.contains(&("x-forwarded-port".into(), "443".into())), "{told:?}");
    }
}
