use http::Request;
use rcgen::{CertificateParams, KeyPair};

use super::app::App;
use super::client::{Client, tls};
use super::{Stage, ingress};
use crate::control_plane::ca;

#[tokio::test]
async fn http2_comes_with_the_certificate_of_the_name_that_is_asked_for() {
    let stage = Stage::set(&[]).await;
    let _app = App::of(&stage).await;
    stage.sync(&[ingress("a.example.com", true, &[("/", "web")]), ingress("*.b.com", true, &[("/", "any")])]).await;
    let ca = ca(&stage.data());
    for name in ["a.example.com", "x.b.com", "y.b.com"] {
        let mut client = Client::http2(tls(stage.https, name, &ca, "h2").await.unwrap()).await;
        let request = Request::get(format!("https://{name}/x?y")).header("cookie", "a=1").header("cookie", "b=2");
        let seen = client.ask(request.body("").unwrap()).await.json();
        assert_eq!((&seen["headers"]["host"], &seen["path"]), (&name.into(), &"/x".into()));
        assert_eq!(seen["headers"]["cookie"], "a=1; b=2");
        assert_eq!(seen["headers"]["x-forwarded-proto"], "https");
        assert_eq!(seen["headers"]["x-forwarded-port"], "443");
        let trailers = client
            .ask(Request::get(format!("https://{name}/trailers")).header("te", "trailers").body("").unwrap())
            .await;
        assert_eq!((trailers.text(), &trailers.trailers.as_ref().unwrap()["x-sum"]), ("data", &"42".parse().unwrap()));
        let large = client.ask(Request::post(format!("https://{name}/echo")).body(vec![3; 1 << 20]).unwrap()).await;
        assert_eq!(large.body.len(), 1 << 20);
    }
    for unknown in ["c.example.com", "b.com", "x.y.b.com", "localhost"] {
        let refused = tls(stage.https, unknown, &ca, "h2").await.unwrap_err();
        assert!(refused.to_string().contains("alert"), "{refused}");
    }
    assert_eq!(stage.server.metric("pipeops_control_plane_web_failed_handshakes_total").await, 4.0);
}

#[tokio::test]
async fn certificates_of_the_folder_come_first_and_are_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let put = |file: &str, name: &str| {
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap().pem();
        std::fs::write(folder.path().join(format!("{file}.key")), key.serialize_pem()).unwrap();
        std::fs::write(folder.path().join(format!("{file}.crt")), &cert).unwrap();
        cert
    };
    let (one, wild) = (put("a.example.com", "a.example.com"), put("_.example.com", "*.example.com"));
    let mut stage = Stage::set(&[("PIPEOPS_GATEWAY_CERT_DIR", folder.path().to_str().unwrap())]).await;
    let _app = App::of(&stage).await;
    stage.sync(&[ingress("a.example.com", true, &[("/", "web")])]).await;
    tls(stage.https, "a.example.com", &one, "http/1.1").await.unwrap();
    tls(stage.https, "b.example.com", &wild, "http/1.1").await.unwrap();

    std::fs::write(folder.path().join("a.example.com.crt"), "broken").unwrap();
    let said = stage.server.says("A CERTIFICATE OF gateway.cert_dir CANNOT BE USED").await;
    assert_eq!(said["hostname"], "a.example.com");
    tls(stage.https, "a.example.com", &one, "http/1.1").await.unwrap();
    let new = put("a.example.com", "a.example.com");
    stage.server.says("certificates of web apps are read").await;
    let renewed = async {
        while tls(stage.https, "a.example.com", &new, "http/1.1").await.is_err() {
            stage.server.says("certificates of web apps are read").await;
        }
    };
    renewed.await;
    tls(stage.https, "a.example.com", &one, "http/1.1").await.unwrap_err();
}
