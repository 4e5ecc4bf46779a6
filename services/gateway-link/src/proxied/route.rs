//! Where a request goes, and how it is put there.

use std::fmt::Write as _;

use http::header::{self, HeaderMap, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Uri};
use protocol::message::proxied::{ContentError, Headers, ProxyRequest};
use protocol::stream::InvalidTarget;
use protocol::{HttpTarget, Target, hop, identity};

/// Who answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    Kube,
    Service(HttpTarget),
}

/// Why a request cannot be sent anywhere.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    #[error(
        "there is no route for {path:?}: it is no path of the Kubernetes API, and the request names no Service (service_name, namespace, service_port)"
    )]
    NoRoute { path: String },
    #[error("the request for Service {service:?} lacks {lacks}")]
    Lacks { service: String, lacks: &'static str },
    #[error("the request does not name a Service: {0}")]
    Target(#[from] InvalidTarget),
    #[error("scheme {0:?} of a Service is not known: http or https")]
    Scheme(String),
    #[error("{0:?} is not an HTTP method")]
    Method(String),
    #[error("{0:?} is not a path")]
    Path(String),
    #[error(
        "{0:?} is not a path of a WebSocket of the Kubernetes API: it has to begin as one, without \"%\", \"\\\" and \"..\""
    )]
    StreamPath(String),
    #[error("path and headers have {0} bytes, {MAX_HEAD} are taken")]
    Head(usize),
    #[error(transparent)]
    Content(#[from] ContentError),
}

/// Largest head of a request, in bytes; our hops take no larger one.
const MAX_HEAD: usize = 256 * 1024;

/// What the API server serves; all else of a cluster is behind Services.
const KUBE: [&str; 7] = ["/api", "/apis", "/healthz", "/readyz", "/livez", "/version", "/openapi"];

impl Route {
    pub fn of(request: &ProxyRequest) -> Result<Self, RouteError> {
        let service = request.service_name.as_deref().unwrap_or_default();
        if service.is_empty() {
            if is_kube(&request.path) {
                return Ok(Self::Kube);
            }
            return Err(RouteError::NoRoute { path: cut(&request.path) });
        }
        let lacks = |lacks| RouteError::Lacks { service: cut(service), lacks };
        let namespace =
            request.namespace.as_deref().filter(|name| !name.is_empty()).ok_or_else(|| lacks("namespace"))?;
        let port = request.service_port.ok_or_else(|| lacks("service_port"))?;
        let tls = match request.scheme.as_deref().unwrap_or_default() {
            "" | "http" | "ws" => false,
            "https" | "wss" => true,
            other => return Err(RouteError::Scheme(cut(other))),
        };
        Ok(Self::Service(HttpTarget { target: Target::new(namespace, service, port)?, tls }))
    }

    /// The target in the header of a bus stream.
    pub fn target(&self) -> Option<String> {
        match self {
            Self::Kube => None,
            Self::Service(target) => Some(target.to_string()),
        }
    }

    /// For people.
    pub fn name(&self) -> String {
        match self {
            Self::Kube => "the Kubernetes API".to_owned(),
            Self::Service(target) => format!("Service {}", target.target),
        }
    }
}

/// Whether the API server serves it.
pub fn is_kube(path: &str) -> bool {
    KUBE.iter()
        .any(|prefix| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?'])))
}

/// The path of a WebSocket of the API server, which is checked more strictly: it is where commands are run.
pub fn stream_path(path: &str) -> Result<String, RouteError> {
    let bad = || RouteError::StreamPath(cut(path));
    if path.contains(['%', '\\', '?', '#']) || path.split('/').any(|segment| segment == "..") {
        return Err(bad());
    }
    let mut clean = String::with_capacity(path.len());
    for character in path.chars() {
        if character != '/' || !clean.ends_with('/') {
            clean.push(character);
        }
    }
    if is_kube(&clean) { Ok(clean) } else { Err(bad()) }
}

/// The request without its body; its headers are fit for the next hop.
pub fn request(
    method: &str,
    path: &str,
    query: &str,
    headers: &Headers,
    route: &Route,
) -> Result<Request<()>, RouteError> {
    let mut request = Request::new(());
    *request.method_mut() = match method {
        "" => Method::GET,
        method => Method::from_bytes(method.as_bytes()).map_err(|_| RouteError::Method(cut(method)))?,
    };
    *request.uri_mut() = uri(path, query)?;
    let headers = headers.to_map()?;
    let fields = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>();
    let size = fields + path.len() + query.len();
    if size > MAX_HEAD {
        return Err(RouteError::Head(size));
    }
    *request.headers_mut() = prepare(headers, route);
    Ok(request)
}

fn prepare(mut headers: HeaderMap, route: &Route) -> HeaderMap {
    // A control plane that does not know these headers passes on what its clients write into them.
    identity::strip_ours(&mut headers);
    hop::strip_hop_by_hop(&mut headers);
    headers.remove(header::EXPECT);
    let given = headers.remove(header::HOST);
    let host = match route {
        Route::Kube => HeaderValue::from_static("kubernetes"),
        Route::Service(HttpTarget { target, .. }) => given.unwrap_or_else(|| {
            let name = format!("{}.{}:{}", target.service(), target.namespace(), target.port());
            HeaderValue::from_str(&name).unwrap_or_else(|_| HeaderValue::from_static("service"))
        }),
    };
    headers.insert(header::HOST, host);
    headers
}

/// Path and query in origin form. What cannot stand in a request line is percent-encoded: some control planes send the
/// path decoded. A `%` stays as it is.
fn uri(path: &str, query: &str) -> Result<Uri, RouteError> {
    if !path.starts_with('/') {
        return Err(RouteError::Path(cut(path)));
    }
    let mut text = String::with_capacity(path.len() + query.len() + 1);
    encode(path, &mut text);
    let query = query.strip_prefix('?').unwrap_or(query);
    if !query.is_empty() {
        text.push(if path.contains('?') { '&' } else { '?' });
        encode(query, &mut text);
    }
    PathAndQuery::try_from(text).map(Uri::from).map_err(|_| RouteError::Path(cut(path)))
}

fn encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        let plain = byte.is_ascii_graphic() && !b"\"#<>\\^`{|}".contains(&byte);
        if plain {
            out.push(char::from(byte));
        } else {
            // Into memory, which takes everything.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

/// As much of what a peer wrote as an error repeats.
fn cut(text: &str) -> String {
    text.chars().take(128).collect()
}

#[cfg(test)]
mod tests {
    use http::HeaderName;
    use proptest::prelude::*;

    use super::*;

    fn to(path: &str, service: Option<(&str, &str, u16)>) -> Result<Route, RouteError> {
        Route::of(&ProxyRequest {
            path: path.to_owned(),
            service_name: service.map(|(name, _, _)| name.to_owned()),
            namespace: service.map(|(_, namespace, _)| namespace.to_owned()),
            service_port: service.map(|(_, _, port)| port).filter(|port| *port > 0),
            ..ProxyRequest::default()
        })
    }

    #[test]
    fn a_request_goes_to_its_service_or_to_the_api_server() {
        for path in ["/api", "/api/v1/pods", "/apis/apps/v1", "/healthz", "/readyz/etcd", "/version", "/openapi/v3"] {
            assert_eq!(to(path, None).unwrap(), Route::Kube, "{path}");
        }
        for path in ["/", "/apifoo", "/metrics", "api/v1", ""] {
            assert!(matches!(to(path, None), Err(RouteError::NoRoute { .. })), "{path}");
        }
        let Ok(Route::Service(target)) = to("/api/v1/orders", Some(("web", "shop", 80))) else { panic!() };
        assert_eq!(target.to_string(), "shop/web:80");
        for bad in [("web", "", 80), ("web", "shop", 0), ("we.b", "shop", 80), ("127.0.0.1", "shop", 80)] {
            assert!(to("/", Some(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn paths_of_commands_are_checked() {
        assert_eq!(stream_path("//api/v1//x/exec").unwrap(), "/api/v1/x/exec");
        for bad in ["/api/../etc", "/api/%2e%2e/x", "/api\\x", "/other", "/apix/exec", "/api/v1/x?y"] {
            assert!(stream_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn nobody_names_a_user_by_a_header_of_ours() {
        let headers: Headers = serde_json::from_str(
            r#"{"X-PipeOps-User":"admin","Connection":"x-a","X-A":"1","Host":["a","b"],"Authorization":"Bearer t","Upgrade":"h2c"}"#,
        )
        .unwrap();
        let service = Route::Service("https://shop/web:443".parse().unwrap());
        let request = request("POST", "/a b/ü", "x=1 2", &headers, &service).unwrap();
        assert_eq!(request.uri().to_string(), "/a%20b/%C3%BC?x=1%202");
        let names: Vec<_> = request.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(request.headers().len(), 2, "{names:?}");
        assert_eq!(request.headers()[header::HOST], "a");
    }

    proptest! {
        #[test]
        fn no_path_makes_it_panic_or_leave_its_line(path in "(?s)/.{0,40}", query in "(?s).{0,40}") {
            if let Ok(uri) = uri(&path, &query) {
                prop_assert!(uri.to_string().bytes().all(|b| b.is_ascii_graphic()));
            }
            let _checked = stream_path(&path);
        }
    }
}
