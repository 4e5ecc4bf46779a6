//! Errors as Kubernetes clients print them: `metav1.Status`.

use serde::{Deserialize, Serialize};

/// Content type of [`Status::to_json`].
pub const CONTENT_TYPE: &str = "application/json";

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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
    /// HTTP status code.
    #[serde(default)]
    pub code: u16,
}

/// Always `{}` in a failure; the field is there because clients expect it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Metadata {}

/// What a client may act on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u32>,
}

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
            details: None,
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
        /// 405: the method is not possible here.
        method_not_allowed = 405 "MethodNotAllowed";
        /// 409: somebody else changed it first.
        conflict = 409 "Conflict";
        /// 413: the body is larger than allowed.
        too_large = 413 "RequestEntityTooLarge";
        /// 429: over a limit; try later.
        too_many_requests = 429 "TooManyRequests";
        /// 431: the request's headers are larger than allowed.
        headers_too_large = 431 "RequestHeaderFieldsTooLarge";
        /// 500: a fault of ours.
        internal = 500 "InternalError";
        /// 502: the API server, or a hop on the way to it, could not be reached or broke off.
        bad_gateway = 502 "BadGateway";
        /// 503: nobody is there to serve the request now.
        unavailable = 503 "ServiceUnavailable";
        /// 504: no answer in the time allowed.
        timeout = 504 "Timeout";
    }

    /// Asks clients to try again after `seconds`.
    #[must_use]
    pub fn with_retry_after(mut self, seconds: u32) -> Self {
        self.details.get_or_insert_default().retry_after_seconds = Some(seconds);
        self
    }

    /// The HTTP status; 500 when `code` is none.
    pub fn http_status(&self) -> http::StatusCode {
        http::StatusCode::from_u16(self.code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The message as a `Warning` header, for requests of which [`shows_no_status`] is true.
    pub fn to_warning(&self) -> Option<http::HeaderValue> {
        let mut value = String::from("299 pipeops \"");
        for character in self.message.chars() {
            match character {
                '"' | '\\' => value.extend(['\\', character]),
                _ if character.is_control() => value.push(' '),
                _ => value.push(character),
            }
        }
        value.push('"');
        http::HeaderValue::from_bytes(value.as_bytes()).ok()
    }

    /// The body of the response.
    pub fn to_json(&self) -> Vec<u8> {
        crate::envelope::to_json(self).into_bytes()
    }
}

/// Whether clients throw away the `Status` that answers a GET of this path of the API server. kubectl and helm ask these before
/// anything else, and print a text of their own for a failure ("the server could not find the requested resource", "unknown"); what
/// they do print is the `Warning` header.
pub fn shows_no_status(path: &str) -> bool {
    matches!(path, "/api" | "/apis" | "/version")
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
        assert_eq!((status.code, status.reason.as_str()), (404, "NotFound"));
        assert_eq!(String::from_utf8(status.to_json()).unwrap(), text);
    }

    #[test]
    fn a_retry_hint_is_part_of_the_details() {
        let json = String::from_utf8(Status::too_many_requests("busy").with_retry_after(3).to_json()).unwrap();
        assert!(json.contains(r#""details":{"retryAfterSeconds":3}"#), "{json}");
    }

    #[test]
    fn a_warning_is_one_quoted_line() {
        let warning = Status::not_found("cluster \"a\\b\"\nis ✓").to_warning().unwrap();
        assert_eq!(std::str::from_utf8(warning.as_bytes()).unwrap(), r#"299 pipeops "cluster \"a\\b\" is ✓""#);
    }

    proptest! {
        #[test]
        fn every_message_is_read_back(code in 0u16..1000, reason in "[A-Za-z]{0,20}", message in "(?s).{0,60}", retry: Option<u32>) {
            let mut status = Status::failure(code, &reason, message);
            if let Some(seconds) = retry {
                status = status.with_retry_after(seconds);
            }
            prop_assert!(status.http_status().as_u16() >= 100);
            prop_assert!(status.to_warning().is_some());
            prop_assert_eq!(serde_json::from_slice::<Status>(&status.to_json()).unwrap(), status);
        }
    }
}
