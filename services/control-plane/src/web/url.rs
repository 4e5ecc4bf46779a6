use std::net::SocketAddr;

use protocol::route::Route;
use protocol::tunnel::RoutingMode;

use crate::options;

/// Under which ports clients reach the gateway's listeners; none where there is no such listener.
#[derive(Clone, Copy, Debug, Default)]
pub struct Public {
    pub http: Option<u16>,
    pub https: Option<u16>,
}

impl Public {
    /// `http` and `https` are what is listened on.
    pub fn of(options: &options::Gateway, http: Option<SocketAddr>, https: Option<SocketAddr>) -> Self {
        let port = |listen: Option<SocketAddr>, public: Option<u16>| {
            listen.map(|listen| public.unwrap_or_else(|| listen.port()))
        };
        Self { http: port(http, options.http_port), https: port(https, options.https_port) }
    }

    pub fn is_served(self) -> bool {
        self.http.is_some() || self.https.is_some()
    }

    /// Where clients find the route.
    pub fn url(self, route: &Route) -> String {
        let (host, path) = (&route.hostname, &route.path);
        // Straight to the cluster, whose ports are not ours.
        if route.routing_mode == RoutingMode::Direct {
            let scheme = if route.tls { "https" } else { "http" };
            return format!("{scheme}://{host}{path}");
        }
        match (self.http, self.https) {
            (Some(port), None) => format!("http://{}{path}", authority(host, port, 80)),
            (Some(port), Some(_)) if !route.tls => format!("http://{}{path}", authority(host, port, 80)),
            (_, Some(port)) => format!("https://{}{path}", authority(host, port, 443)),
            (None, None) => String::new(),
        }
    }

    /// Where a request that came without TLS is sent, if there is HTTPS.
    pub fn redirect(self, host: &str, path_and_query: &str) -> Option<String> {
        Some(format!("https://{}{path_and_query}", authority(host, self.https?, 443)))
    }
}

fn authority(host: &str, port: u16, usual: u16) -> String {
    if port == usual { host.to_owned() } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_the_scheme_and_port_that_clients_use() {
        let text = r#"{"hostname":"a.x.com","namespace":"a","service_name":"b","service_port":80,"path":"/p"}"#;
        let plain: Route = serde_json::from_str(text).unwrap();
        let tls = Route { tls: true, ..plain.clone() };
        let both = Public { http: Some(80), https: Some(8443) };
        assert_eq!((both.url(&plain), both.url(&tls)), ("http://a.x.com/p".into(), "https://a.x.com:8443/p".into()));
        let one = Public { http: Some(8080), https: None };
        assert_eq!((one.url(&tls), one.redirect("a", "/")), ("http://a.x.com:8080/p".into(), None));
        assert_eq!(Public { http: None, https: Some(443) }.url(&plain), "https://a.x.com/p");
        assert_eq!(both.redirect("a.x.com", "/p?q"), Some("https://a.x.com:8443/p?q".into()));
        let direct = Route { routing_mode: RoutingMode::Direct, ..tls };
        assert_eq!(Public::default().url(&direct), "https://a.x.com/p");
    }
}
