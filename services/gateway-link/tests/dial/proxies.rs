use std::time::Duration;

use gateway_link::{Dialer, PipeOps};
use protocol::Secret;

use crate::peers::{Authority, ControlPlane, Does, Files, Proxy};
use crate::{Tls, dial, failure, settings};

/// "ana:open sesame"
const CREDENTIALS: &str = "YW5hOm9wZW4gc2VzYW1l";

fn by_way_of(url: String, options: PipeOps) -> PipeOps {
    let url = Some(Secret::new(url));
    if options.api_url.starts_with("https") {
        PipeOps { https_proxy: url, ..options }
    } else {
        PipeOps { http_proxy: url, ..options }
    }
}

#[tokio::test]
async fn a_proxy_passes_on_tls_and_plain_connections_and_is_told_a_name_only() {
    let files = Files::new();
    let authority = Authority::new("authority");
    let secure = ControlPlane::start(Some(&authority.sign("cp.test"))).await;
    let plain = ControlPlane::start(None).await;
    let tls = Tls { ca_file: Some(files.write("ca.pem", &authority.pem())), ..Tls::default() };
    for (api_url, control_plane) in [("https://cp.test", &secure), ("http://cp.test:8080", &plain)] {
        let proxy = Proxy::start(Does::Connect(control_plane.address, Some(CREDENTIALS)), None).await;
        let options = PipeOps { api_url: api_url.to_owned(), tls: tls.clone(), ..settings("", control_plane) };
        let url = format!("http://ana:open%20sesame@{}", proxy.address);
        dial(&Dialer::new(&by_way_of(url, options)).unwrap()).await.unwrap();
        let (head, _) = (proxy.heads().remove(0), control_plane.seen());
        let name = if api_url.starts_with("https") { "cp.test:443" } else { "cp.test:8080" };
        assert!(head.starts_with(&format!("CONNECT {name} HTTP/1.1\r\nHost: {name}\r\n")), "{head}");
        assert!(!head.contains("Bearer"), "{head}");
    }
}

#[tokio::test]
async fn a_proxy_may_speak_tls_itself_and_its_certificate_is_verified() {
    let files = Files::new();
    let (authority, stranger) = (Authority::new("authority"), Authority::new("stranger"));
    let server = authority.sign("localhost");
    let control_plane = ControlPlane::start(Some(&server)).await;
    let connects = Does::Connect(control_plane.address, None);
    let proxy = Proxy::start(connects, Some(&authority.sign("localhost"))).await;
    // Pins are for the control plane alone.
    let tls =
        Tls { ca_file: Some(files.write("ca.pem", &authority.pem())), pins: vec![server.pin()], ..Tls::default() };
    let options = || PipeOps { tls: tls.clone(), ..settings("https", &control_plane) };
    let url = format!("https://localhost:{}", proxy.address.port());
    dial(&Dialer::new(&by_way_of(url.clone(), options())).unwrap()).await.unwrap();

    let foreign = Proxy::start(connects, Some(&stranger.sign("localhost"))).await;
    let url = format!("https://localhost:{}", foreign.address.port());
    let insecure = PipeOps { tls: Tls { insecure_skip_verify: true, ..tls.clone() }, ..options() };
    let error = failure(&Dialer::new(&by_way_of(url.clone(), insecure)).unwrap()).await;
    assert!(error.contains(&format!("the proxy {url}")) && error.contains("UnknownIssuer"), "{error}");
    assert!(foreign.heads().is_empty(), "it was asked for something");
}

#[tokio::test]
async fn a_refusal_says_whose_it_is_and_no_password() {
    let _files = Files::new();
    let control_plane = ControlPlane::start(None).await;
    let connects = Does::Connect(control_plane.address, Some(CREDENTIALS));
    let proxy = Proxy::start(connects, None).await;
    let shown = format!("the proxy http://{}", proxy.address);
    for (user, advice) in
        [("ana:hunter2@", "check the user and the password"), ("", "it asks for a user and a password")]
    {
        let url = format!("http://{user}{}", proxy.address);
        let dialer = Dialer::new(&by_way_of(url, settings("http", &control_plane))).unwrap();
        let error = failure(&dialer).await;
        assert!(
            error.starts_with(&format!("{shown} answered 407 Proxy Authentication Required to CONNECT")),
            "{error}"
        );
        assert!(error.contains(advice), "{error}");
        let printed = format!("{error} {dialer:?}");
        assert!(!printed.contains("hunter2") && !printed.contains("YW5hOmh1bnRlcjI"), "{printed}");
    }
    assert!(control_plane.seen().is_empty());
}

#[tokio::test]
async fn whom_no_proxy_names_is_reached_directly() {
    let _files = Files::new();
    let control_plane = ControlPlane::start(None).await;
    let proxy = Proxy::start(Does::Nothing, None).await;
    let options = by_way_of(format!("http://{}", proxy.address), settings("http", &control_plane));
    let options = PipeOps { no_proxy: "example.com,localhost".to_owned(), ..options };
    dial(&Dialer::new(&options).unwrap()).await.unwrap();
    assert!(proxy.heads().is_empty());
}

#[tokio::test]
async fn a_proxy_that_misbehaves_is_named_with_what_it_did() {
    let _files = Files::new();
    let control_plane = ControlPlane::start(None).await;
    let cases = [
        (Does::Say(""), "closed the connection without an answer"),
        (Does::Say("HTTP/1.1 200 OK\r\nVia"), "closed the connection without an answer"),
        (Does::Say("SSH-2.0-OpenSSH_9.2\r\n"), "its answer is not HTTP/1"),
        (Does::Say("HTTP/1.1 502 Bad Gateway\r\n\r\n<html>"), "answered 502 Bad Gateway to CONNECT localhost:"),
        (Does::Say("HTTP/1.1 101 Switching Protocols\r\n\r\n"), "answered 101"),
        (Does::Say("HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 101"), "sent more than an answer"),
        (Does::Repeat("HTTP/1.1 200 OK\r\n"), "its answer is not HTTP/1"),
        (Does::Repeat("x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n"), "its answer is not HTTP/1"),
        (Does::Nothing, "still waiting for the proxy http://"),
    ];
    for (does, said) in cases {
        let proxy = Proxy::start(does, None).await;
        let options = by_way_of(format!("http://{}", proxy.address), settings("http", &control_plane));
        let options = PipeOps { timeout: Duration::from_secs(2).into(), ..options };
        let error = failure(&Dialer::new(&options).unwrap()).await;
        assert!(error.contains(said) && error.contains(&proxy.address.to_string()), "{error}");
    }
    let gone = Proxy::start(Does::Nothing, None).await.address;
    let options = by_way_of(format!("http://{gone}"), settings("http", &control_plane));
    let error = failure(&Dialer::new(&options).unwrap()).await;
    assert!(error.contains(&format!("cannot connect to the proxy http://{gone}")), "{error}");
}
