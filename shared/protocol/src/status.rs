//! Errors as Kubernetes clients print them: `metav1.Status`.

use http::{HeaderValue, Response, StatusCode, header};
use serde::{Deserialize, Serialize};

/// A failed request, in the form in which the API server itself reports one. kubectl prints
/// `Error from server (<reason>): <message>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    kind: String,
    api_version: String,
    #[serde(default)]
    metadata: Metadata,
    /// `Failure`, or `Success`.
    pub status: String,
    #[serde(default)]
    pub message: String,
    #[serde(default)]
    pub reason: String,
    /// HTTP status code.
    #[serde(default)]
    pub code: u16,
}

/// Always `{}` in a failure; the field is there because clients expect it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Metadata {}

macro_rules! failures {
    ($($(#[$doc:meta])* $name:ident = $code:literal $reason:literal;)*) => {
        $(
            $(#[$doc])*
            pub fn $name(message: impl Into<String>) -> Self {
                Self::failure($code, $reason, message.into())
            }
        )*
    };
}

impl Status {
    /// A failure with HTTP status `code`, the machine-readable `reason` of the API conventions (such as
    /// `ServiceUnavailable`) and a `message` for people.
    pub fn failure(code: u16, reason: &str, message: String) -> Self {
        Self {
            kind: "Status".into(),
            api_version: "v1".into(),
            metadata: Metadata {},
            status: "Failure".into(),
            message,
            reason: reason.into(),
            code,
        }
    }

    failures! {
        /// 400: the request cannot be understood.
        bad_request = 400 "BadRequest";
        /// 401: no valid token.
        unauthorized = 401 "Unauthorized";
        /// 403: known, but not allowed.
        forbidden = 403 "Forbidden";
        /// 404: no such cluster, path or object.
        not_found = 404 "NotFound";
        /// 429: more than what is allowed; the client is to ask again a second later.
        too_many_requests = 429 "TooManyRequests";
        /// 502: the API server, or a hop on the way to it, could not be reached or broke off.
        bad_gateway = 502 "BadGateway";
        /// 503: nobody is there to serve the request now.
        unavailable = 503 "ServiceUnavailable";
        /// 504: no answer in the time allowed.
        timeout = 504 "Timeout";
    }

    /// The HTTP status; 500 when `code` is none.
    pub fn http_status(&self) -> StatusCode {
        StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The whole response. `unread`: the client shows nobody the body (see [`shows_no_status`]), so the message is in a
    /// `Warning` header, too.
    pub fn to_response(&self, unread: bool) -> Response<Vec<u8>> {
        let mut response = Response::new(self.to_json());
        *response.status_mut() = self.http_status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(warning) = self.to_warning().filter(|_| unread) {
            headers.insert(header::WARNING, warning);
        }
        if self.code == 401 {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"pipeops\""));
        }
        if self.code == 429 {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }

    fn to_warning(&self) -> Option<HeaderValue> {
        let mut value = String::from("299 pipeops \"");
        for character in self.message.chars() {
            match character {
                '"' | '\\' => value.extend(['\\', character]),
                _ if character.is_control() => value.push(' '),
                _ => value.push(character),
            }
        }
        value.push('"');
        HeaderValue::from_bytes(value.as_bytes()).ok()
    }

    fn to_json(&self) -> Vec<u8> {
        crate::envelope::to_json(self).into_bytes()
    }
}

/// Whether clients throw away the `Status` that answers a GET of this path of the API server. kubectl and helm ask these before
/// anything else, and print a text of their own for a failure ("the server could not find the requested resource", "unknown"); what
/// they do print is the `Warning` header.
pub fn shows_no_status(path: &str) -> bool {
    matches!(path, "/api" | "/apis" | "/version")
}

/// Whether the answer to a request for this path of the API server comes from behind a node's, pod's or service's `proxy`, which
/// may ask for credentials of its own.
pub fn is_relayed(path: &str) -> bool {
    let mut segments = path.split('/');
    while let Some(segment) = segments.next() {
        if matches!(segment, "nodes" | "pods" | "services") && segments.clone().nth(1) == Some("proxy") {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_has_the_form_of_the_api_server() {
        let json = Status::unavailable("cluster \"prod\" is not connected").to_json();
        assert_eq!(
            String::from_utf8(json).unwrap(),
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"cluster \"prod\" is not connected","reason":"ServiceUnavailable","code":503}"#
        );
    }

    #[test]
    fn what_the_api_server_sends_is_read() {
        let text = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"m","reason":"NotFound","details":{"name":"x","kind":"pods"},"code":404}"#;
        let status: Status = serde_json::from_str(text).unwrap();
        assert_eq!((status.code, status.reason.as_str(), status.message.as_str()), (404, "NotFound", "m"));
    }

    #[test]
    fn a_warning_is_one_quoted_line() {
        let status = Status::not_found("cluster \"a\\b\"\nis ✓");
        let response = status.to_response(true);
        let warning = response.headers().get(header::WARNING).unwrap();
        assert_eq!(std::str::from_utf8(warning.as_bytes()).unwrap(), r#"299 pipeops "cluster \"a\\b\" is ✓""#);
        assert_eq!(status.to_response(false).headers().get(header::WARNING), None);
    }

    #[test]
    fn who_is_told_to_come_back_is_told_when() {
        let response = Status::too_many_requests("slow down").to_response(false);
        assert_eq!(
            (response.status().as_u16(), &response.headers()[header::RETRY_AFTER]),
            (429, &"1".parse().unwrap())
        );
        assert_eq!(Status::unavailable("away").to_response(false).headers().get(header::RETRY_AFTER), None);
    }

    #[test]
    fn only_what_is_behind_a_proxy_is_relayed() {
        for path in [
            "/api/v1/nodes/n1/proxy/metrics",
            "/api/v1/namespaces/a/pods/web:8080/proxy",
            "/api/v1/namespaces/a/services/https:web:/proxy/x",
        ] {
            assert!(is_relayed(path), "{path}");
        }
        for path in [
            "/api/v1/namespaces/a/services/proxy",
            "/api/v1/namespaces/proxy/pods",
            "/apis/apps/v1/namespaces/a/deployments/web/proxy",
            "/proxy",
        ] {
            assert!(!is_relayed(path), "{path}");
        }
    }

    proptest! {
        #[test]
        fn every_message_is_read_back(code in 0u16..1000, reason in "[A-Za-z]{0,20}", message in "(?s).{0,60}") {
            let status = Status::failure(code, &reason, message);
            prop_assert!(status.http_status().as_u16() >= 100);
            prop_assert!(status.to_warning().is_some());
            prop_assert_eq!(serde_json::from_slice::<Status>(&status.to_json()).unwrap(), status);
        }
    }
}
