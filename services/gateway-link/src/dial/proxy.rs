//! Proxies that are asked by CONNECT to pass bytes on to the control plane.

use std::fmt;
use std::io;

use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::Matcher;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::DialError;
use super::target::Target;
use crate::options::PipeOps;

/// The longest head of a proxy's answer.
const MAX_HEAD: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;

/// A proxy on the way. Printed without what it is told of the user.
#[derive(Clone)]
pub struct Proxy {
    pub at: Target,
    credentials: Option<HeaderValue>,
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.at.scheme(), self.at.address())
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Proxy {
    /// The one that leads to the target, if the settings name one.
    pub fn towards(target: &Target, options: &PipeOps) -> Result<Option<Self>, DialError> {
        let (setting, given) =
            if target.tls { ("https_proxy", &options.https_proxy) } else { ("http_proxy", &options.http_proxy) };
        let Some(given) = given.as_ref().map(|given| given.expose().trim()).filter(|given| !given.is_empty()) else {
            return Ok(None);
        };
        let malformed = || DialError::Proxy { setting, shown: masked(given) };
        let uri: Uri = format!("{}://{}/", target.scheme(), target.address()).parse().map_err(|_| malformed())?;
        let through = Matcher::builder().all(given).build().intercept(&uri).ok_or_else(malformed)?;
        let at = Target::of(through.uri()).ok_or_else(malformed)?;
        let no = exceptions(&options.no_proxy, target.port);
        if Matcher::builder().all(given).no(no).build().intercept(&uri).is_none() {
            return Ok(None);
        }
        Ok(Some(Self { at, credentials: through.basic_auth().cloned() }))
    }

    /// Has the proxy connect to the target; from then on the stream's other end is the target.
    pub async fn connect<S>(&self, stream: &mut S, target: &Target) -> Result<(), DialError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let broken = |source| DialError::ProxyBroken { proxy: self.to_string(), source };
        let address = target.address();
        let mut request = format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n").into_bytes();
        if let Some(credentials) = &self.credentials {
            for part in [b"Proxy-Authorization: ".as_slice(), credentials.as_bytes(), b"\r\n"] {
                request.extend_from_slice(part);
            }
        }
        request.extend_from_slice(b"\r\n");
        stream.write_all(&request).await.map_err(broken)?;
        stream.flush().await.map_err(broken)?;
        let answer = Answer::read(stream).await.map_err(broken)?;
        if (200..300).contains(&answer.status) {
            return Ok(());
        }
        // tinyproxy has 401 for a wrong password.
        let advice = match (answer.status, &self.credentials) {
            (401 | 407, None) => "; it asks for a user and a password: put them into its URL",
            (401 | 407, Some(_)) => "; check the user and the password in its URL",
            _ => "",
        };
        let Answer { status, reason } = answer;
        Err(DialError::ProxyRefused { proxy: self.to_string(), address, status, reason, advice })
    }
}

/// What a proxy says to CONNECT.
struct Answer {
    status: u16,
    reason: String,
}

impl Answer {
    async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Self> {
        let mut head = Vec::new();
        loop {
            if stream.read_buf(&mut head).await? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection without an answer"));
            }
            let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
            let mut response = httparse::Response::new(&mut headers);
            let parsed = response.parse(&head).map_err(|error| {
                io::Error::new(io::ErrorKind::InvalidData, format!("its answer is not HTTP/1: {error}"))
            })?;
            if let httparse::Status::Complete(length) = parsed {
                let status = response.code.unwrap_or_default();
                // A target waits for its client to speak first.
                if (200..300).contains(&status) && head.len() > length {
                    let text = "it sent more than an answer before anything was asked of the control plane";
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
                return Ok(Self { status, reason: response.reason.unwrap_or_default().to_owned() });
            }
            if head.len() >= MAX_HEAD {
                let text = format!("the head of its answer has more than {MAX_HEAD} bytes");
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
        }
    }
}

/// The entries that count for this port, without it: the matcher knows none.
fn exceptions(given: &str, port: u16) -> String {
    let entries = given.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty());
    let counting = entries.filter_map(|entry| match entry.rsplit_once(':') {
        Some((host, own)) if !host.contains(':') || host.ends_with(']') => (own.parse() == Ok(port)).then_some(host),
        _ => Some(entry),
    });
    let bare = counting.map(|host| host.trim_start_matches("*.").trim_start_matches('[').trim_end_matches(']'));
    bare.collect::<Vec<_>>().join(",")
}

/// A URL without its user and password.
fn masked(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://***@{host}"),
        (None, Some((_, host))) => format!("***@{host}"),
        (_, None) => url.to_owned(),
    }
}

#[cfg(test)]
mod tests;
