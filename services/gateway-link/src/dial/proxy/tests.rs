use protocol::Secret;

use super::*;

fn proxy(api_url: &str, options: PipeOps) -> Result<Option<Proxy>, DialError> {
    let target = Target::of(&api_url.parse().unwrap()).unwrap();
    Proxy::towards(&target, &options)
}

fn by_https(url: &str) -> PipeOps {
    PipeOps { https_proxy: Some(Secret::new(url)), ..PipeOps::default() }
}

#[test]
fn each_scheme_has_a_proxy_of_its_own() {
    let both = || PipeOps { http_proxy: Some(Secret::new("plain:3128")), ..by_https("http://secure") };
    let shown = |url: &str, options| proxy(url, options).unwrap().map(|proxy| proxy.to_string());
    assert_eq!(shown("https://cp", both()).as_deref(), Some("http://secure:80"));
    assert_eq!(shown("wss://cp", both()).as_deref(), Some("http://secure:80"));
    assert_eq!(shown("http://cp", both()).as_deref(), Some("http://plain:3128"));
    assert_eq!(shown("http://cp", by_https("http://secure")), None);
    assert_eq!(shown("https://cp", by_https("https://secure")).as_deref(), Some("https://secure:443"));
    assert_eq!(shown("https://cp", by_https(" ")), None);
    assert_eq!(shown("https://cp", by_https("http://[fd00::1]:8080")).as_deref(), Some("http://[fd00::1]:8080"));
}

#[test]
fn no_proxy_names_whom_to_reach_directly() {
    let cases = [
        ("https://cp.example.com", "example.com", true),
        ("https://cp.example.com", ".example.com", true),
        ("https://cp.example.com", "*.example.com", true),
        ("https://CP.Example.com", "a, Cp.example.com ,b", true),
        ("https://cp.example.com", "a b cp.example.com", true),
        ("https://cp.example.com", "*", true),
        ("https://cp.example.com", "cp.example.com:443", true),
        ("https://cp.example.com:8443", "cp.example.com:8443", true),
        ("https://cp.example.com:8443", "cp.example.com:443", false),
        ("https://cp.example.com:8443", ".example.com:443,example.com:8443", true),
        ("https://cp.example.com", "p.example.com,example,com.", false),
        ("https://example.community", "example.com", false),
        ("https://10.1.2.3", "10.0.0.0/8", true),
        ("https://10.1.2.3", "10.1.2.3", true),
        ("https://10.1.2.3:8443", "10.0.0.0/8:8443", true),
        ("https://10.1.2.3:8443", "10.0.0.0/8:443,11.0.0.0/8", false),
        ("https://[fd00::1]:8443", "fd00::/8", true),
        ("https://[fd00::1]:8443", "[fd00::1]", true),
        ("https://[fd00::1]:8443", "[fd00::1]:8443", true),
        ("https://[fd00::1]:8443", "[fd00::1]:443,fd00::2", false),
        ("https://cp.example.com", "", false),
    ];
    for (url, no, direct) in cases {
        let options = PipeOps { no_proxy: no.to_owned(), ..by_https("http://proxy:3128") };
        assert_eq!(proxy(url, options).unwrap().is_none(), direct, "{url} with {no:?}");
    }
}

#[test]
fn what_is_no_proxy_is_refused_and_no_password_is_shown() {
    for url in
        ["socks5://u:hunter2@proxy", "http://u:hunter2@", "http://u:hunt er2@proxy", "u:hunt^er2@proxy:1:2", "ftp://x"]
    {
        let error = proxy("https://cp", by_https(url)).unwrap_err().to_string();
        assert!(error.contains("pipeops.https_proxy") && error.contains("%XX"), "{error}");
        assert!(!error.contains("hunt"), "{error}");
    }
    let good = proxy("https://cp", by_https("http://ana:hunter2@proxy")).unwrap().unwrap();
    assert_eq!(format!("{good} {good:?}"), "http://proxy:80 http://proxy:80");
    // "ana:p@:" of user and password with what has a meaning in URLs.
    let odd = proxy("https://cp", by_https("http://ana:p%40%3A@proxy")).unwrap().unwrap();
    assert_eq!(odd.credentials.unwrap(), "Basic YW5hOnBAOg==");
}
