use http::Uri;

/// Where to connect to, and whether by TLS.
#[derive(Clone, Debug)]
pub struct Target {
    pub host: String,
    pub port: u16,
    pub tls: bool,
}

impl Target {
    /// None of an address that is not of the web, or of nobody.
    pub fn of(uri: &Uri) -> Option<Self> {
        let tls = match uri.scheme_str() {
            Some("https" | "wss") => true,
            Some("http" | "ws") => false,
            _ => return None,
        };
        let host = uri.host().filter(|host| !host.is_empty())?;
        let port = match uri.port_u16() {
            Some(port) => port,
            // Not for want of one that is too large.
            None if uri.authority()?.as_str().ends_with(host) => {
                if tls {
                    443
                } else {
                    80
                }
            }
            None => return None,
        };
        Some(Self { host: host.to_owned(), port, tls })
    }

    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }

    pub fn bare_host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }
}
