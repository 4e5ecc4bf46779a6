//! Where requests go, whose they are, and how their answers come back.

use serde_json::Value;

use crate::backend::{Backend, Event, large};
use crate::{STREAMED, Settings, TOKEN, cluster, cluster_with};

#[tokio::test]
async fn an_answer_comes_in_pieces_as_it_is() {
    let (mut control_plane, _api) = cluster().await;
    let fields = format!(r#""method":"GET","path":"/api/v1/large",{TOKEN},{STREAMED}"#);
    control_plane.request("r1", &fields).await;
    let (head, body) = control_plane.answer("r1").await;
    assert_eq!(head.payload["status"], Value::from(200));
    assert!(body == large(), "{} bytes", body.len());
}

#[tokio::test]
async fn an_answer_comes_whole_to_a_control_plane_that_takes_no_pieces() {
    let (mut control_plane, _api) = cluster().await;
    control_plane.request("r1", &format!(r#""method":"GET","path":"/api/v1/large",{TOKEN}"#)).await;
    let got = control_plane.of("r1").await;
    assert_eq!((got.kind.as_str(), got.text("encoding")), ("proxy_response", "base64"));
    assert!(got.bytes("body") == large());
}

#[tokio::test]
async fn an_answer_that_is_too_large_for_one_message_is_an_error() {
    let mut settings = Settings::default();
    settings.link.proxied.max_response = 1000;
    let (mut control_plane, _api) = cluster_with(&[], settings).await;
    control_plane.request("r1", &format!(r#""method":"GET","path":"/api/v1/large",{TOKEN}"#)).await;
    let got = control_plane.of("r1").await;
    assert_eq!(got.kind, "proxy_error");
    assert!(got.error().contains("supports_response_streaming"), "{got:?}");
}

#[tokio::test]
async fn a_compressed_answer_is_not_touched() {
    let (mut control_plane, _api) = cluster().await;
    let fields =
        r#""method":"GET","path":"/api/v1/gzip","headers":{"Authorization":"x","Accept-Encoding":["gzip","br"]}"#;
    for (id, more) in [("whole", ""), ("pieces", STREAMED)] {
        let comma = if more.is_empty() { "" } else { "," };
        control_plane.request(id, &format!("{fields}{comma}{more}")).await;
        let wanted = "\u{1f}\u{8b} as it is".as_bytes();
        if more.is_empty() {
            let got = control_plane.of(id).await;
            assert_eq!(got.bytes("body"), wanted);
            assert_eq!(got.payload["headers"]["Content-Encoding"][0], Value::from("gzip"));
        } else {
            let (head, body) = control_plane.answer(id).await;
            assert_eq!(body, wanted);
            assert_eq!(head.payload["headers"]["Content-Encoding"][0], Value::from("gzip"));
        }
    }
}

#[tokio::test]
async fn a_request_runs_under_the_token_that_it_brings_and_under_no_other() {
    let (mut control_plane, _api) = cluster().await;
    let headers = r#""headers":{"Authorization":"Bearer kubernetes","X-PipeOps-User":"admin","Impersonate-User":"ana","Connection":"close"}"#;
    control_plane
        .request("r1", &format!(r#""method":"GET","path":"/api/v1/echo","query":"a=b c",{headers},{STREAMED}"#))
        .await;
    let (head, _) = control_plane.answer("r1").await;
    let headers = &head.payload["headers"];
    assert_eq!(headers["X-Got-Authorization"][0], Value::from("Bearer kubernetes"));
    assert_eq!(headers["X-Got-Impersonate-User"][0], Value::from("ana"), "for the API server to judge");
    assert_eq!(headers["X-Got-X-Pipeops-User"], Value::Null);
    assert_eq!(headers["X-Target"][0], Value::from("/api/v1/echo?a=b%20c"));

    control_plane.request("r2", r#""method":"GET","path":"/api/v1/echo""#).await;
    let got = control_plane.of("r2").await;
    assert_eq!(got.payload["status"], Value::from(401));
    assert!(String::from_utf8(got.bytes("body")).unwrap().contains("rbac.mode"), "{got:?}");
}

#[tokio::test]
async fn a_request_without_credentials_has_the_agents_rights_only_where_the_owner_says_so() {
    let mut settings = Settings::default();
    settings.executor.rbac.mode = proxy_executor::RbacMode::View;
    let (mut control_plane, _api) = cluster_with(&[], settings).await;
    let fields = format!(r#""path":"/api/v1/echo","headers":{{"Impersonate-User":"admin"}},{STREAMED}"#);
    control_plane.request("r1", &fields).await;
    let (head, _) = control_plane.answer("r1").await;
    assert_eq!(head.payload["headers"]["X-Got-Impersonate-User"], Value::Null);
    assert_eq!(head.payload["headers"]["X-Method"][0], Value::from("GET"));
}

#[tokio::test]
async fn a_service_gets_the_request_as_it_is() {
    let service = Backend::start().await;
    let services = [("shop/web:80", service.address)];
    let (mut control_plane, _api) = cluster_with(&services, Settings::default()).await;
    let web = r#""service_name":"web","namespace":"shop","service_port":80"#;
    let headers =
        r#""headers":{"Host":["shop.example.com"],"Authorization":"Basic x","Cookie":["a=1","b=2"],"TE":"gzip"}"#;
    control_plane
        .request("r1", &format!(r#""method":"PUT","path":"/echo","body":"hi",{web},{headers},{STREAMED}"#))
        .await;
    let (head, body) = control_plane.answer("r1").await;
    let headers = &head.payload["headers"];
    assert_eq!(body, b"hi");
    assert_eq!(headers["X-Got-Host"][0], Value::from("shop.example.com"));
    assert_eq!(headers["X-Got-Authorization"][0], Value::from("Basic x"));
    assert_eq!(headers["X-Got-Te"], Value::Null);

    control_plane.request("r2", &format!(r#""method":"GET","path":"/redirect",{web}"#)).await;
    let got = control_plane.of("r2").await;
    assert_eq!(got.payload["status"], Value::from(302), "a redirect is for the client");
}

/// Nobody signs for a Service's name; the request is made all the same, and the connection is TLS.
#[tokio::test]
async fn a_service_may_speak_https_with_a_certificate_of_its_own() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let key = rcgen::generate_simple_self_signed(vec!["other.example.com".to_owned()]).unwrap();
    let private = tokio_rustls::rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
    let shown = tokio_rustls::rustls::sign::CertifiedKey::from_der(
        vec![key.cert.der().clone()],
        private,
        &runtime::tls::provider(),
    );
    let shown = tokio_rustls::rustls::sign::SingleCertAndKey::from(shown.unwrap());
    let config = runtime::tls::server_config(std::sync::Arc::new(shown), None, &[b"http/1.1"]).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let services = [("shop/secure:443", listener.local_addr().unwrap())];
    let mut running = tokio::task::JoinSet::new();
    running.spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(mut tls) = acceptor.accept(tcp).await else { continue };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(tls.read_u8().await.unwrap());
            }
            tls.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret").await.unwrap();
        }
    });
    let (mut control_plane, _api) = cluster_with(&services, Settings::default()).await;
    let secure = r#""path":"/","service_name":"secure","namespace":"shop","service_port":443"#;
    control_plane.request("r1", &format!(r#"{secure},"scheme":"https""#)).await;
    assert_eq!(control_plane.of("r1").await.bytes("body"), b"secret");
    control_plane.request("r2", &format!(r#"{secure},"scheme":"gopher""#)).await;
    assert!(control_plane.of("r2").await.error().contains("gopher"));
}

#[tokio::test]
async fn what_cannot_be_reached_is_said() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let services = [("shop/gone:80", gone), ("kube-system/dns:80", gone)];
    let (mut control_plane, _api) = cluster_with(&services, Settings::default()).await;
    for (fields, status, said) in [
        (r#""path":"/","service_name":"gone","namespace":"shop","service_port":80"#, 503, "gone.shop.svc"),
        (r#""path":"/","service_name":"web","namespace":"shop","service_port":80"#, 503, "web.shop.svc"),
        (r#""path":"/","service_name":"dns","namespace":"kube-system","service_port":80"#, 403, "kube-system/*"),
    ] {
        control_plane.request("r", fields).await;
        let got = control_plane.of("r").await;
        assert_eq!(got.payload["status"], Value::from(status), "{got:?}");
        let body = String::from_utf8(got.bytes("body")).unwrap();
        assert!(body.contains(said), "{body}");
    }
    for (fields, said) in [
        (r#""path":"/metrics""#, "no route"),
        (r#""path":"/","service_name":"web","service_port":80"#, "namespace"),
        (r#""path":"/","service_name":"web","namespace":"shop""#, "service_port"),
        (r#""path":"/","service_name":"10.0.0.1","namespace":"shop","service_port":80"#, "DNS label"),
        (r#""path":"/api","method":"G T""#, "method"),
        (r#""path":"/api","headers":{"a b":"c"}"#, "header"),
        (r#""path":"/api","body":7"#, "body"),
        (r#""path":"/api","deadline":"2020-01-01T00:00:00Z""#, "deadline"),
    ] {
        control_plane.request("r", fields).await;
        let got = control_plane.of("r").await;
        assert_eq!(got.kind, "proxy_error", "{fields}: {got:?}");
        assert!(got.error().contains(said), "{fields}: {got:?}");
    }
}

#[tokio::test]
async fn a_cancelled_request_is_given_up_at_once() {
    let (mut control_plane, mut api) = cluster().await;
    for path in ["/api/v1/stuck", "/api/v1/watch"] {
        control_plane.request("r1", &format!(r#""path":"{path}",{TOKEN},{STREAMED}"#)).await;
        api.saw(Event::Begun(path.to_owned())).await;
        control_plane.send("proxy_cancel", "r1", "{}").await;
        api.saw(Event::Cancelled(path.to_owned())).await;
    }
    // Another one may have that name now.
    control_plane.request("r2", &format!(r#""path":"/api/v1/gzip",{TOKEN}"#)).await;
    assert_eq!(control_plane.of("r2").await.kind, "proxy_response");
}

#[tokio::test]
async fn a_timeout_is_for_the_beginning_of_an_answer_only() {
    let (mut control_plane, mut api) = cluster().await;
    control_plane.request("r1", &format!(r#""path":"/api/v1/stuck","timeout":300,{TOKEN}"#)).await;
    let got = control_plane.of("r1").await;
    assert!(got.kind == "proxy_error" && got.error().contains("0.3 s"), "{got:?}");
    api.saw(Event::Cancelled("/api/v1/stuck".to_owned())).await;

    control_plane.request("r2", &format!(r#""path":"/api/v1/watch","timeout":"300ms",{TOKEN},{STREAMED}"#)).await;
    assert_eq!(control_plane.of("r2").await.kind, "proxy_response_header");
    // Another that times out meanwhile shows that the time is over.
    control_plane.request("r3", &format!(r#""path":"/api/v1/stuck","timeout":600,{TOKEN}"#)).await;
    assert_eq!(control_plane.of("r3").await.kind, "proxy_error");
    api.say.send("event".into()).await.unwrap();
    assert_eq!(control_plane.of("r2").await.bytes("data"), b"event");
}

#[tokio::test]
async fn requests_are_messages_also_when_the_link_carries_streams() {
    let (mut control_plane, _api) = cluster().await;
    control_plane.hello().await;
    control_plane.request("r1", &format!(r#""path":"/api/v1/large",{TOKEN},{STREAMED}"#)).await;
    assert!(control_plane.answer("r1").await.1 == large());
    control_plane.request("r2", &format!(r#""method":"POST","path":"/api/v1/echo","body_binary":true,{TOKEN}"#)).await;
    let got = control_plane.of("r2").await;
    assert!(got.kind == "proxy_error" && got.error().contains("base64"), "{got:?}");
}

#[tokio::test]
async fn an_agent_that_stops_finishes_what_is_under_way() {
    let (mut control_plane, mut api) = cluster().await;
    control_plane.request("r1", &format!(r#""path":"/api/v1/watch",{TOKEN},{STREAMED}"#)).await;
    assert_eq!(control_plane.of("r1").await.kind, "proxy_response_header");
    control_plane.agent.stop.cancel();
    control_plane.next("go_away").await;
    api.say.send("last words".into()).await.unwrap();
    assert_eq!(control_plane.of("r1").await.bytes("data"), b"last words");
    drop(std::mem::replace(&mut api, Backend::start().await));
    let got = control_plane.of("r1").await;
    assert!(matches!(got.kind.as_str(), "proxy_response_abort" | "proxy_response_end"), "{got:?}");
}
