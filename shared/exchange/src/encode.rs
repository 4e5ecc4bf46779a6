//! Heads and bodies as they are sent.

use std::fmt::Write as _;
use std::time::SystemTime;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, Version};

use crate::error::Malformed;
use crate::head::{content_length, has_no_body};
use crate::output::Output;

/// How the body of one message is delimited.
#[derive(Debug)]
pub(crate) enum Encoder {
    /// So many bytes are still to come.
    Length(u64),
    Chunked,
    UntilClose,
}

/// A typical head.
const HEAD: usize = 512;

/// Writes the head of a request in origin form. `length`: of its body, where that is known.
pub(crate) fn request<B>(request: &Request<B>, length: Option<u64>, out: &mut BytesMut) -> Result<Encoder, Malformed> {
    let target = request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    out.reserve(HEAD);
    for part in [request.method().as_str(), " ", target, " HTTP/1.1\r\n"] {
        out.put_slice(part.as_bytes());
    }
    let (method, headers) = (request.method(), request.headers());
    let means_something = !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE);
    let encoder = match body_length(length, headers)? {
        Some(0) => {
            fields(headers, out);
            if means_something {
                out.put_slice(b"content-length: 0\r\n");
            }
            Encoder::Length(0)
        }
        Some(length) => {
            fields(headers, out);
            say_length(length, out);
            Encoder::Length(length)
        }
        None => {
            fields(headers, out);
            out.put_slice(b"transfer-encoding: chunked\r\n");
            Encoder::Chunked
        }
    };
    out.put_slice(b"\r\n");
    Ok(encoder)
}

/// What a response is an answer to, and what is to be said with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    pub(crate) to_head: bool,
    pub(crate) version: Version,
    pub(crate) keep_alive: bool,
    pub(crate) date: bool,
}

/// Writes the head of a response.
pub(crate) fn response<B>(
    response: &Response<B>,
    answer: Answer,
    length: Option<u64>,
    out: &mut BytesMut,
) -> Result<Encoder, Malformed> {
    let (status, headers) = (response.status(), response.headers());
    out.reserve(HEAD);
    for part in ["HTTP/1.1 ", status.as_str(), " ", status.canonical_reason().unwrap_or_default(), "\r\n"] {
        out.put_slice(part.as_bytes());
    }
    fields(headers, out);
    let encoder = if has_no_body(status) {
        Encoder::Length(0)
    } else if answer.to_head {
        // What a GET would have given, if that is known.
        if let Some(length) = content_length(headers)? {
            say_length(length, out);
        }
        Encoder::Length(0)
    } else {
        match body_length(length, headers)? {
            Some(length) => {
                say_length(length, out);
                Encoder::Length(length)
            }
            None if answer.version == Version::HTTP_10 => Encoder::UntilClose,
            None => {
                out.put_slice(b"transfer-encoding: chunked\r\n");
                Encoder::Chunked
            }
        }
    };
    if !answer.keep_alive && !headers.contains_key(header::CONNECTION) {
        out.put_slice(b"connection: close\r\n");
    }
    if answer.date && !headers.contains_key(header::DATE) {
        // Into memory, which takes everything.
        let _ = write!(out, "date: {}\r\n", httpdate::HttpDate::from(SystemTime::now()));
    }
    out.put_slice(b"\r\n");
    Ok(encoder)
}

/// The body knows best; of one that does not, the head may say it.
fn body_length(known: Option<u64>, headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    match (known, content_length(headers)?) {
        (Some(known), Some(said)) if known != said => Err(Malformed::OtherLength),
        (Some(length), _) | (None, Some(length)) => Ok(Some(length)),
        (None, None) => Ok(None),
    }
}

fn say_length(length: u64, out: &mut BytesMut) {
    // Into memory, which takes everything.
    let _ = write!(out, "content-length: {length}\r\n");
}

/// Whether a field may come after the body: not what decides how the message is read, where it goes or who sent it
/// (RFC 9110 §6.5.1).
fn may_trail(name: &HeaderName) -> bool {
    const NEVER: [HeaderName; 13] = [
        header::AUTHORIZATION,
        header::CONNECTION,
        header::COOKIE,
        header::EXPECT,
        header::HOST,
        header::MAX_FORWARDS,
        header::PROXY_AUTHORIZATION,
        header::SET_COOKIE,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::WWW_AUTHENTICATE,
    ];
    // The last two name a user to the API server.
    let never = ["content-", "impersonate-", "x-remote-"];
    !NEVER.contains(name) && !never.iter().any(|prefix| name.as_str().starts_with(prefix))
}

/// All headers but those that delimit the body.
fn fields(headers: &HeaderMap, out: &mut BytesMut) {
    for (name, value) in headers {
        if *name != header::CONTENT_LENGTH && *name != header::TRANSFER_ENCODING {
            field(name.as_str(), value, out);
        }
    }
}

fn field(name: &str, value: &HeaderValue, out: &mut BytesMut) {
    out.reserve(name.len() + value.len() + 4);
    out.put_slice(name.as_bytes());
    out.put_slice(b": ");
    out.put_slice(value.as_bytes());
    out.put_slice(b"\r\n");
}

impl Encoder {
    /// Adds a piece of the body.
    pub(crate) fn data(&mut self, piece: Bytes, out: &mut Output) -> Result<(), Malformed> {
        if piece.is_empty() {
            return Ok(());
        }
        match self {
            Self::Length(left) => {
                *left = left.checked_sub(piece.len() as u64).ok_or(Malformed::OtherLength)?;
                out.add(piece, b"");
            }
            Self::UntilClose => out.add(piece, b""),
            Self::Chunked => {
                // Into memory, which takes everything.
                let _ = write!(out.gathered(), "{:x}\r\n", piece.len());
                out.add(piece, b"\r\n");
            }
        }
        Ok(())
    }

    /// Ends the body.
    pub(crate) fn end(&mut self, trailers: Option<&HeaderMap>, out: &mut Output) -> Result<(), Malformed> {
        match self {
            Self::Length(0) | Self::UntilClose => Ok(()),
            Self::Length(_) => Err(Malformed::OtherLength),
            Self::Chunked => {
                let out = out.gathered();
                out.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.into_iter().flatten().filter(|(name, _)| may_trail(name)) {
                    field(name.as_str(), value, out);
                }
                out.extend_from_slice(b"\r\n");
                Ok(())
            }
        }
    }
}
