//! Web pages of Services and pods, behind the API server's own proxy: `/api/v1/namespaces/<ns>/services/<name>/proxy/…`.
//!
//! The API server takes itself for the root of its host when it corrects what a page says of its own paths. Here it is below
//! a path of the control plane:
//!
//! ```text
//!   /api/v1/clusters/agent/<cluster>/proxy │ /api/v1/namespaces/<ns>/services/<name>/proxy │ /d/home
//!   base                                   │ service                                       │ the app's own
//! ```
//!
//! So `Location`, the paths of cookies and the links of HTML pages get the base in front. An app that knows where it is (its
//! links begin with base and service already) finds them as it wrote them.

mod page;

use http::header::{self, HeaderMap, HeaderValue};
use http::uri::Authority;
use http::{Method, Request, Uri};
use protocol::endpoint::split_proxy_path;

pub use page::{Page, Rewriting};

use crate::path::has_dot_segment;
use crate::web::wants_html;

const HTML: &str = "text/html";

/// Where an app is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubPath {
    base: String,
    service: String,
}

impl SubPath {
    /// None where the path is not that of an app.
    pub fn of(uri: &Uri) -> Option<Self> {
        let (_, rest) = split_proxy_path(uri.path())?;
        let base = uri.path().strip_suffix(rest)?;
        let mut parts = rest.strip_prefix("/api/v1/namespaces/")?.split('/');
        let [namespace, kind, name, "proxy"] = [parts.next()?, parts.next()?, parts.next()?, parts.next()?] else {
            return None;
        };
        // The API server decodes: with a separator in one of them it would be the path of something else.
        let is_name = |text: &str| {
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.:".contains(&byte))
        };
        let is_app = matches!(kind, "services" | "pods") && is_name(namespace) && is_name(name);
        is_app.then(|| Self {
            base: base.to_owned(),
            service: format!("/api/v1/namespaces/{namespace}/{kind}/{name}/proxy"),
        })
    }

    /// The same, unless the client has a proxy of its own that stands at the root of its host, as `kubectl proxy` does: to that
    /// the API server's paths are right as they are.
    pub fn seen_by(uri: &Uri, headers: &HeaderMap) -> Option<Self> {
        let local = |value: &HeaderValue| {
            let list = value.to_str().unwrap_or_default();
            list.split(',').all(|address| address.trim().parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()))
        };
        if headers.get("x-forwarded-for").is_some_and(local) { None } else { Self::of(uri) }
    }

    /// Makes a request for a page one whose answer can be read here.
    pub fn prepare(headers: &mut HeaderMap) {
        if wants_html(headers) {
            headers.remove(header::ACCEPT_ENCODING);
        }
    }

    /// Corrects the head of an answer; gives what its body needs.
    pub fn rewrite(&self, headers: &mut HeaderMap) -> Option<Rewriting> {
        if let Some(location) = headers.get(header::LOCATION).and_then(|location| self.corrected(location)) {
            headers.insert(header::LOCATION, location);
        }
        let cookies: Vec<_> = headers.get_all(header::SET_COOKIE).iter().map(|cookie| self.cookie(cookie)).collect();
        if !cookies.is_empty() {
            headers.remove(header::SET_COOKIE);
            headers.extend(cookies.into_iter().map(|cookie| (header::SET_COOKIE, cookie)));
        }
        let of = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
        let is_html = of(header::CONTENT_TYPE).split(';').next().is_some_and(|kind| kind.trim() == HTML);
        if !is_html || !matches!(of(header::CONTENT_ENCODING), "" | "identity") {
            return None;
        }
        headers.remove(header::CONTENT_LENGTH);
        headers.remove(header::ETAG);
        headers.remove(header::ACCEPT_RANGES);
        Some(Rewriting::new(&self.base, &self.service))
    }

    /// The API server puts the service in front of each path of this host, whether it is there or not.
    fn corrected(&self, location: &HeaderValue) -> Option<HeaderValue> {
        let path = location.to_str().ok()?;
        let own = path.strip_prefix(&self.service).filter(|own| own.is_empty() || own.starts_with(['/', '?', '#']))?;
        let whole = own.strip_prefix(&self.base).is_some_and(|rest| rest.starts_with(&self.service));
        HeaderValue::try_from(if whole { own.to_owned() } else { format!("{}{path}", self.base) }).ok()
    }

    /// Good for this app alone, wherever on its host it wanted to be good.
    fn cookie(&self, cookie: &HeaderValue) -> HeaderValue {
        let Ok(text) = cookie.to_str() else { return cookie.clone() };
        let part = |part: &str| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            match name.trim().to_ascii_lowercase().as_str() {
                "domain" => None,
                "path" => Some(format!(" Path={}", self.cookie_path(value.trim()))),
                _ => Some(part.to_owned()),
            }
        };
        let mut parts = text.split(';');
        let first = parts.next().unwrap_or_default().to_owned();
        let all: Vec<_> = std::iter::once(first).chain(parts.filter_map(part)).collect();
        HeaderValue::try_from(all.join(";")).unwrap_or_else(|_| cookie.clone())
    }

    fn cookie_path(&self, path: &str) -> String {
        let whole = path.strip_prefix(&self.base).is_some_and(|rest| rest.starts_with(&self.service));
        match path {
            _ if whole => path.to_owned(),
            _ if path.starts_with('/') => format!("{}{}{path}", self.base, self.service),
            _ => format!("{}{}/", self.base, self.service),
        }
    }
}

/// Whether a request that a browser gave its password to by itself comes from a page of this host, or is a link that was
/// followed: pages of other hosts can make it send both, but not read the answer. A path that may lead elsewhere is nobody's.
pub fn is_own<B>(request: &Request<B>) -> bool {
    let (method, headers) = (request.method(), request.headers());
    let says = |name: &str, text: &str| headers.get(name).is_some_and(|value| value == text);
    if has_dot_segment(request.uri().path()) {
        return false;
    }
    if headers.contains_key("sec-fetch-site") {
        let followed = matches!(*method, Method::GET | Method::HEAD) && says("sec-fetch-mode", "navigate");
        return says("sec-fetch-site", "same-origin") || says("sec-fetch-site", "none") || followed;
    }
    // Browsers that do not say so name the page's origin, at least where more than reading is asked for.
    let host = request.uri().authority().map(Authority::as_str);
    let host = host.or_else(|| headers.get(header::HOST).and_then(|host| host.to_str().ok())).unwrap_or_default();
    let is_this = |origin: &HeaderValue| {
        let origin = origin.to_str().unwrap_or_default();
        origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host))
    };
    headers.get(header::ORIGIN).is_none_or(is_this)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "/api/v1/clusters/agent/prod/proxy";
    const SERVICE: &str = "/api/v1/namespaces/shop/services/grafana:80/proxy";

    fn sub_path() -> SubPath {
        SubPath::of(&format!("{BASE}{SERVICE}/d/home?a=b").parse().unwrap()).unwrap()
    }

    #[test]
    fn an_app_is_known_by_its_path() {
        assert_eq!(sub_path(), SubPath { base: BASE.to_owned(), service: SERVICE.to_owned() });
        for path in [
            "/api/v1/namespaces/shop/services/grafana",
            "/api/v1/namespaces/shop/services//proxy/",
            "/api/v1/namespaces/shop/configmaps/grafana/proxy",
            "/api/v1/services/grafana/proxy",
            "/apis/apps/v1/namespaces/shop/services/grafana/proxy",
            "/api/v1/namespaces/shop/pods/x%2Fexec/proxy",
            "/api/v1/namespaces/shop%2Fpods%2Fx%2Fexec/services/y/proxy",
        ] {
            assert_eq!(SubPath::of(&format!("{BASE}{path}").parse().unwrap()), None, "{path}");
        }
        assert_eq!(SubPath::of(&SERVICE.parse().unwrap()), None, "not below the control plane");
        let uri = format!("{BASE}{SERVICE}").parse().unwrap();
        for (proxies, sees) in [("127.0.0.1", false), ("::1, 127.0.0.1", false), ("127.0.0.1, 10.0.0.7", true)] {
            let headers = HeaderMap::from_iter([(
                header::HeaderName::from_static("x-forwarded-for"),
                HeaderValue::from_static(proxies),
            )]);
            assert_eq!(SubPath::seen_by(&uri, &headers).is_some(), sees, "{proxies}");
        }
        assert!(SubPath::seen_by(&uri, &HeaderMap::new()).is_some());
    }

    #[test]
    fn locations_and_cookies_lead_where_the_app_is() {
        let whole = format!("{BASE}{SERVICE}");
        for (says, becomes) in [
            (format!("{SERVICE}/login?next=/"), format!("{whole}/login?next=/")),
            (SERVICE.to_owned(), whole.clone()),
            // The app knows where it is, and the API server has put the service in front once more.
            (format!("{SERVICE}{whole}/login"), format!("{whole}/login")),
            ("login".to_owned(), "login".to_owned()),
            ("https://sso.example.com/".to_owned(), "https://sso.example.com/".to_owned()),
            (format!("{SERVICE}-other/"), format!("{SERVICE}-other/")),
        ] {
            let mut headers = HeaderMap::from_iter([(header::LOCATION, says.parse().unwrap())]);
            assert!(sub_path().rewrite(&mut headers).is_none());
            assert_eq!(headers[header::LOCATION], becomes);
        }
        for (says, becomes) in [
            ("a=b; Path=/; HttpOnly".to_owned(), format!("a=b; Path={whole}/; HttpOnly")),
            ("a=b;path=/login;Domain=grafana.local".to_owned(), format!("a=b; Path={whole}/login")),
            (format!("a=path; Path={whole}/x"), format!("a=path; Path={whole}/x")),
            ("a=b; Path=x; Secure".to_owned(), format!("a=b; Path={whole}/; Secure")),
            ("a=b; Max-Age=3".to_owned(), "a=b; Max-Age=3".to_owned()),
        ] {
            let cookies = [says.parse().unwrap(), HeaderValue::from_static("second=2")];
            let mut headers = HeaderMap::from_iter(cookies.map(|cookie| (header::SET_COOKIE, cookie)));
            sub_path().rewrite(&mut headers);
            let set: Vec<_> = headers.get_all(header::SET_COOKIE).iter().collect();
            assert_eq!(set, [becomes.as_str(), "second=2"]);
        }
    }

    #[test]
    fn only_pages_that_can_be_read_are_looked_at() {
        let headers = |pairs: &[(header::HeaderName, &'static str)]| {
            HeaderMap::from_iter(pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))))
        };
        let mut page = headers(&[(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CONTENT_LENGTH, "7")]);
        assert!(sub_path().rewrite(&mut page).is_some() && !page.contains_key(header::CONTENT_LENGTH));
        let mut packed = headers(&[(header::CONTENT_TYPE, HTML), (header::CONTENT_ENCODING, "br")]);
        assert!(sub_path().rewrite(&mut packed).is_none());
        let mut script = headers(&[(header::CONTENT_TYPE, "text/javascript"), (header::CONTENT_LENGTH, "7")]);
        assert!(sub_path().rewrite(&mut script).is_none() && script.contains_key(header::CONTENT_LENGTH));
        let mut asks = headers(&[(header::ACCEPT, "text/html,*/*;q=0.8"), (header::ACCEPT_ENCODING, "gzip, br")]);
        SubPath::prepare(&mut asks);
        assert!(!asks.contains_key(header::ACCEPT_ENCODING));
    }

    #[test]
    fn a_browser_is_not_made_to_act_by_pages_of_others() {
        let asks = |method: &str, headers: &[(&str, &str)]| {
            let uri = format!("{BASE}{SERVICE}/x");
            let mut request = Request::builder().method(method).uri(uri).header("host", "cp.example.com:8443");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            is_own(&request.body(()).unwrap())
        };
        let from = |method, site, mode| asks(method, &[("sec-fetch-site", site), ("sec-fetch-mode", mode)]);
        assert!(asks("POST", &[]), "no browser");
        assert!(from("POST", "same-origin", "cors") && from("GET", "none", "navigate"));
        assert!(from("GET", "cross-site", "navigate"));
        assert!(!from("POST", "cross-site", "navigate"));
        assert!(!from("GET", "cross-site", "no-cors") && !from("GET", "same-site", "cors"));
        assert!(asks("POST", &[("origin", "https://cp.example.com:8443")]));
        for origin in ["https://evil.example.com", "https://cp.example.com", "null"] {
            assert!(!asks("POST", &[("origin", origin)]), "{origin}");
        }
        let elsewhere = Request::get(format!("{BASE}{SERVICE}/%2e%2E/secrets")).body(()).unwrap();
        assert!(!is_own(&elsewhere));
    }
}
