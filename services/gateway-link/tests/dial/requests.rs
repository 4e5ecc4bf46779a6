//! Requests to the REST endpoints go the way that links go.

use std::time::Duration;

use gateway_link::{DialError, Dialer, PipeOps, Tls};
use http::Method;
use protocol::Secret;

use crate::peers::{Authority, ControlPlane, Does, Files, Proxy};
use crate::settings;

async fn post(dialer: &Dialer, after: Duration) -> Result<(u16, String), DialError> {
    let answer = dialer.request(Method::POST, &Secret::new("token"), "/api/v1/x", b"{}".to_vec(), after).await?;
    Ok((answer.status().as_u16(), String::from_utf8(answer.into_body().to_vec()).unwrap()))
}

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_request_is_sent_over_tls_with_the_token_and_answered() {
    let files = Files::new();
    let authority = Authority::new("authority");
    let server = authority.sign("localhost");
    let tls =
        Tls { ca_file: Some(files.write("ca.pem", &authority.pem())), pins: vec![server.pin()], ..Tls::default() };
    for (answer, expected) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", (200, "ok")),
        ("HTTP/1.1 409 Conflict\r\nconnection: close\r\n\r\nno", (409, "no")),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", (200, "ok")),
    ] {
        let control_plane = ControlPlane::answering(Some(&server), answer).await;
        let options = PipeOps { tls: tls.clone(), ..settings("https", &control_plane) };
        let (status, body) = post(&Dialer::new(&options).unwrap(), LONG).await.unwrap();
        assert_eq!((status, &*body), expected);
        let head = control_plane.requests().remove(0);
        let host = format!("host: localhost:{}\r\n", control_plane.address.port());
        assert!(head.starts_with("POST /api/v1/x HTTP/1.1\r\n") && head.contains(&host), "{head}");
        assert!(head.contains("authorization: Bearer token\r\n") && head.ends_with("\r\n\r\n{}"), "{head}");
    }
}

#[tokio::test]
async fn whoever_is_not_trusted_is_shown_no_token() {
    let files = Files::new();
    let (authority, stranger) = (Authority::new("authority"), Authority::new("stranger"));
    let control_plane = ControlPlane::answering(Some(&stranger.sign("localhost")), "HTTP/1.1 200 OK\r\n\r\n").await;
    let tls = Tls { ca_file: Some(files.write("ca.pem", &authority.pem())), ..Tls::default() };
    let dialer = Dialer::new(&PipeOps { tls, ..settings("https", &control_plane) }).unwrap();
    let error = runtime::error_text(&post(&dialer, LONG).await.unwrap_err());
    assert!(error.contains("UnknownIssuer"), "{error}");
    assert!(control_plane.requests().is_empty());
}

#[tokio::test]
async fn a_request_goes_by_way_of_the_proxy_and_has_an_end() {
    let _files = Files::new();
    let control_plane = ControlPlane::answering(None, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let proxy = Proxy::start(Does::Connect(control_plane.address, None), None).await;
    let by_way = |address| PipeOps {
        http_proxy: Some(Secret::new(format!("http://{address}"))),
        ..settings("http", &control_plane)
    };
    assert_eq!(post(&Dialer::new(&by_way(proxy.address)).unwrap(), LONG).await.unwrap().0, 200);
    assert_eq!(proxy.heads().len(), 1);

    let silent = ControlPlane::answering(None, "").await;
    let dialer = Dialer::new(&settings("http", &silent)).unwrap();
    let error = runtime::error_text(&post(&dialer, Duration::from_millis(300)).await.unwrap_err());
    assert!(error.contains("still waiting for the answer"), "{error}");
    let cut = ControlPlane::answering(None, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await;
    let error = runtime::error_text(&post(&Dialer::new(&settings("http", &cut)).unwrap(), LONG).await.unwrap_err());
    assert!(error.contains(&format!("a request to localhost:{} failed", cut.address.port())), "{error}");
}
