//! What a visitor reads who gets no answer from an app.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::Full;

/// Why there is no answer.
#[derive(Debug)]
pub struct Failure {
    pub status: StatusCode,
    /// For the visitor.
    pub text: String,
    /// In how many seconds it is worth another try.
    pub retry_after: Option<u32>,
}

impl Failure {
    pub fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), retry_after: None }
    }

    #[must_use]
    pub fn again_in(self, seconds: u32) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    /// As a page for a browser, as text for others.
    pub fn to_response(&self, html: bool) -> Response<Full<Bytes>> {
        let (kind, body) = if html {
            let (status, text) = (self.status, escaped(&self.text));
            let page = format!(
                "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{status}</title></head>\
                 <body><h1>{status}</h1><p>{text}</p></body></html>\n"
            );
            ("text/html; charset=utf-8", page)
        } else {
            ("text/plain; charset=utf-8", format!("{}\n", self.text))
        };
        let mut response = Response::new(Full::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// Whether the client is one that shows pages.
pub fn wants_html(headers: &HeaderMap) -> bool {
    headers.get_all(header::ACCEPT).iter().any(|accept| accept.to_str().is_ok_and(|text| text.contains("text/html")))
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn a_page_holds_no_markup_of_the_text() {
        let failure = Failure::new(StatusCode::NOT_FOUND, "no <script> & \"x\"").again_in(3);
        let response = failure.to_response(true);
        assert!(response.status() == StatusCode::NOT_FOUND && response.headers()[header::RETRY_AFTER] == "3");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let text = std::str::from_utf8(&body).unwrap();
        assert!(text.contains("no &lt;script&gt; &amp; &quot;x&quot;") && !text.contains("<script>"), "{text}");
        let body = failure.to_response(false).into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "no <script> & \"x\"\n");
    }
}
