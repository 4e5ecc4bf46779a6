//! Heads of messages: found in what arrives, parsed, and how the body that follows is delimited.

use std::mem::MaybeUninit;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use duplex::Duplex;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri, Version};

use crate::decode::{Decoder, split};
use crate::error::{Error, Malformed};

/// Largest head that is taken from one of our own, in bytes.
pub(crate) const MAX_HEAD: usize = 256 * 1024;
/// Most headers of one message. A user's groups are one header each.
pub const MAX_HEADERS: usize = 256;

/// Collects one head.
#[derive(Debug)]
pub(crate) struct HeadReader {
    /// The beginning of a head that came in parts.
    partial: BytesMut,
    /// Largest head that is taken.
    limit: usize,
}

impl HeadReader {
    pub(crate) fn new(limit: usize) -> Self {
        Self { partial: BytesMut::new(), limit }
    }

    /// True once a part of a head has come.
    pub(crate) fn has_begun(&self) -> bool {
        !self.partial.is_empty()
    }

    /// Takes the next head, with the empty line at its end, out of what arrives. `input` keeps what follows it. None
    /// when the peer closed before a first byte.
    pub(crate) fn poll<T: Duplex>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut T,
        input: &mut Bytes,
    ) -> Poll<Result<Option<Bytes>, Error>> {
        loop {
            if let Some(head) = self.take(input)? {
                return Poll::Ready(Ok(Some(head)));
            }
            match ready!(io.poll_chunk(cx))? {
                Some(chunk) => *input = chunk,
                None if self.partial.is_empty() => return Poll::Ready(Ok(None)),
                None => return Poll::Ready(Err(Error::Incomplete)),
            }
        }
    }

    fn take(&mut self, input: &mut Bytes) -> Result<Option<Bytes>, Malformed> {
        if self.partial.is_empty() {
            // An empty line before a message is no part of it (RFC 9112 §2.2).
            while let Some(b'\r' | b'\n') = input.first() {
                input.advance(1);
            }
            if let Some(end) = end_of_head(input, 0) {
                return if end > self.limit { Err(Malformed::LargeHead) } else { Ok(Some(split(input, end))) };
            }
            self.partial = BytesMut::from(std::mem::take(input));
        } else {
            // The line break before the empty line may have come already.
            let from = self.partial.len().saturating_sub(2);
            self.partial.extend_from_slice(input);
            input.clear();
            if let Some(end) = end_of_head(&self.partial, from).filter(|end| *end <= self.limit) {
                let mut all = std::mem::take(&mut self.partial).freeze();
                let head = split(&mut all, end);
                *input = all;
                return Ok(Some(head));
            }
        }
        if self.partial.len() > self.limit { Err(Malformed::LargeHead) } else { Ok(None) }
    }
}

/// Where the first empty line ends, looking at line breaks from `from` on.
pub(crate) fn end_of_head(bytes: &[u8], from: usize) -> Option<usize> {
    let searched = bytes.get(from..)?;
    memchr::memchr_iter(b'\n', searched).find_map(|at| {
        let after = from + at + 1;
        match bytes.get(after..) {
            Some([b'\n', ..]) => Some(after + 1),
            Some([b'\r', b'\n', ..]) => Some(after + 2),
            _ => None,
        }
    })
}

impl From<httparse::Error> for Malformed {
    fn from(error: httparse::Error) -> Self {
        match error {
            httparse::Error::TooManyHeaders => Self::ManyHeaders,
            httparse::Error::HeaderName => Self::Head("header name"),
            httparse::Error::HeaderValue => Self::Head("header value"),
            httparse::Error::Version => Self::Head("version"),
            httparse::Error::Status => Self::Head("status"),
            httparse::Error::NewLine => Self::Head("line break"),
            httparse::Error::Token => Self::Head("token"),
        }
    }
}

pub(crate) fn parse_request(head: &Bytes) -> Result<Request<()>, Malformed> {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut []);
    let complete = parsed.parse_with_uninit_headers(head, &mut headers)? == httparse::Status::Complete(head.len());
    let (true, Some(method), Some(path), Some(version)) = (complete, parsed.method, parsed.path, parsed.version) else {
        return Err(Malformed::Head("incomplete"));
    };
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(method.as_bytes()).map_err(|_| Malformed::Head("method"))?;
    *request.uri_mut() =
        Uri::from_maybe_shared(head.slice_ref(path.as_bytes())).map_err(|_| Malformed::Head("target"))?;
    *request.version_mut() = version_of(version);
    *request.headers_mut() = headers_of(head, parsed.headers)?;
    if request.version() == Version::HTTP_10 {
        // It has no upgrades (RFC 9110 §7.8).
        request.headers_mut().remove(header::UPGRADE);
    }
    Ok(request)
}

pub(crate) fn parse_response(head: &Bytes) -> Result<Response<()>, Malformed> {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut []);
    let complete =
        httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, head, &mut headers)?
            == httparse::Status::Complete(head.len());
    let (true, Some(code), Some(version)) = (complete, parsed.code, parsed.version) else {
        return Err(Malformed::Head("incomplete"));
    };
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(code).map_err(|_| Malformed::Head("status"))?;
    *response.version_mut() = version_of(version);
    *response.headers_mut() = headers_of(head, parsed.headers)?;
    Ok(response)
}

fn version_of(minor: u8) -> Version {
    if minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 }
}

/// Values are parts of `head`, not copies.
pub(crate) fn headers_of(head: &Bytes, parsed: &[httparse::Header<'_>]) -> Result<HeaderMap, Malformed> {
    let mut headers = HeaderMap::with_capacity(parsed.len());
    for line in parsed {
        let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| Malformed::Head("header name"))?;
        let value =
            HeaderValue::from_maybe_shared(head.slice_ref(line.value)).map_err(|_| Malformed::Head("header value"))?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// How the body of a request is delimited (RFC 9112 §6.3).
pub(crate) fn request_body(head: &Request<()>) -> Result<Decoder, Malformed> {
    let headers = head.headers();
    if headers.contains_key(header::TRANSFER_ENCODING) {
        if head.version() == Version::HTTP_10 {
            return Err(Malformed::Coding);
        }
        return chunked(headers);
    }
    Ok(content_length(headers)?.map_or(Decoder::Done, Decoder::length))
}

/// Each request of this version names its host, once.
pub(crate) fn check_host(head: &Request<()>) -> Result<(), Malformed> {
    let hosts = head.headers().get_all(header::HOST).iter().count();
    if hosts > 1 || hosts == 0 && head.version() == Version::HTTP_11 { Err(Malformed::Host) } else { Ok(()) }
}

/// How the body of a response to a `method` request is delimited.
pub(crate) fn response_body(method: &Method, head: &Response<()>) -> Result<Decoder, Malformed> {
    let headers = head.headers();
    // One that makes no sense is refused although it says nothing here.
    let length = content_length(headers)?;
    if method == Method::HEAD || has_no_body(head.status()) {
        return Ok(Decoder::Done);
    }
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return if head.version() == Version::HTTP_10 { Err(Malformed::Coding) } else { chunked(headers) };
    }
    Ok(length.map_or(Decoder::UntilClose, Decoder::length))
}

pub(crate) fn has_no_body(status: StatusCode) -> bool {
    status.is_informational() || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}

fn chunked(headers: &HeaderMap) -> Result<Decoder, Malformed> {
    if headers.contains_key(header::CONTENT_LENGTH) {
        return Err(Malformed::TwoLengths);
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (Some(coding), None) if coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") => {
            Ok(Decoder::chunked())
        }
        _ => Err(Malformed::Coding),
    }
}

pub(crate) fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    let mut length = None;
    for value in headers.get_all(header::CONTENT_LENGTH) {
        let digits = value.to_str().ok().filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()));
        let this = digits.and_then(|digits| digits.parse::<u64>().ok()).ok_or(Malformed::Length)?;
        if length.replace(this).is_some_and(|other| other != this) {
            return Err(Malformed::TwoLengths);
        }
    }
    Ok(length)
}

/// Whether the peer will keep the connection after this message.
pub(crate) fn keeps_alive(version: Version, headers: &HeaderMap) -> bool {
    let says = |wanted: &str| {
        headers.get_all(header::CONNECTION).iter().any(|value| {
            value.as_bytes().split(|b| *b == b',').any(|v| v.trim_ascii().eq_ignore_ascii_case(wanted.as_bytes()))
        })
    };
    version == Version::HTTP_11 && !says("close")
}

#[cfg(test)]
mod tests;
