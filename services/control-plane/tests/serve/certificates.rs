use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio_tungstenite::tungstenite::{self, client::IntoClientRequest as _};

use crate::control_plane::{ControlPlane, ca, get, token};

fn pair(folder: &Path) -> (String, PathBuf, PathBuf) {
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
    let (cert_file, key_file) = (folder.join("tls.crt"), folder.join("tls.key"));
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    std::fs::write(&cert_file, &cert).unwrap();
    (cert, cert_file, key_file)
}

#[tokio::test]
async fn a_new_certificate_is_shown_without_a_restart_and_a_broken_one_is_not() {
    let place = tempfile::tempdir().unwrap();
    let (old, cert_file, key_file) = pair(place.path());
    let settings = [("PIPEOPS_TLS_CERT_FILE", cert_file.as_path()), ("PIPEOPS_TLS_KEY_FILE", key_file.as_path())];
    let mut server = ControlPlane::start(&place.path().join("data"), &settings).await;
    let mut open = server.connect(&old).await.unwrap();
    assert_eq!(get(&mut open, "/api/v1/clusters", "x").await.0, 401);

    std::fs::write(&cert_file, "broken").unwrap();
    let said = server.says("THE NEW CERTIFICATE CANNOT BE USED").await;
    assert!(said["level"] == "ERROR" && said["error"].as_str().unwrap().contains("tls.crt"), "{said}");
    server.connect(&old).await.unwrap();

    let (new, ..) = pair(place.path());
    server.says("certificate replaced").await;
    server.connect(&new).await.unwrap();
    server.connect(&old).await.unwrap_err();
    assert_eq!(get(&mut open, "/api/v1/clusters", "x").await.0, 401);
}

/// An authority of agents' certificates: its own, and a certificate that it has signed with its key.
fn authority(name: &str) -> (String, (String, String)) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let agent = CertificateParams::new(["agent".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    (authority.pem(), (agent.pem(), key.serialize_pem()))
}

/// What an agent with this certificate is answered.
async fn agent(server: &ControlPlane, ca: &str, token: &str, shown: Option<&(String, String)>) -> Result<u16, String> {
    let shown = shown.map(|(cert, key)| (cert.as_str(), key.as_str()));
    let stream = server.connect_as(ca, shown).await.map_err(|error| error.to_string())?;
    let mut request = "wss://localhost/api/v1/clusters/agent/ws".into_client_request().unwrap();
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    match tokio_tungstenite::client_async(request, stream).await {
        Ok((_, response)) => Ok(response.status().as_u16()),
        Err(tungstenite::Error::Http(response)) => {
            Err(String::from_utf8(response.body().clone().unwrap_or_default()).unwrap())
        }
        Err(error) => Err(error.to_string()),
    }
}

#[tokio::test]
async fn agents_need_a_certificate_where_its_authority_is_named_and_users_do_not() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    let ((old_ca, old), (new_ca, new)) = (authority("old"), authority("new"));
    let client_ca = place.path().join("agents.crt");
    std::fs::write(&client_ca, &old_ca).unwrap();
    let mut server = ControlPlane::start(&data, &[("PIPEOPS_TLS_CLIENT_CA_FILE", client_ca.as_path())]).await;
    let ca = ca(&data);
    let secret = token(&data, &["create", "--agent", "--cluster", "prod"]).await;
    let user = token(&data, &["create", "--user", "ana"]).await;

    assert_eq!(agent(&server, &ca, &secret, Some(&old)).await, Ok(101));
    let refused = agent(&server, &ca, &secret, None).await.unwrap_err();
    assert!(refused.contains("shows no client certificate") && refused.contains("403"), "{refused}");
    server.says("an agent is refused: it shows no client certificate").await;
    agent(&server, &ca, &secret, Some(&new)).await.unwrap_err();
    let said = server.says("a client certificate is refused").await;
    assert!(said["error"].as_str().unwrap().contains("UnknownIssuer"), "{said}");
    assert_eq!(get(&mut server.connect(&ca).await.unwrap(), "/api/v1/clusters", &user).await.0, 200);

    std::fs::write(&client_ca, format!("{old_ca}{new_ca}")).unwrap();
    server.says("certificate replaced").await;
    assert_eq!(agent(&server, &ca, &secret, Some(&old)).await, Ok(101));
    assert_eq!(agent(&server, &ca, &secret, Some(&new)).await, Ok(101));
    std::fs::write(&client_ca, "broken").unwrap();
    let said = server.says("THE NEW CERTIFICATE CANNOT BE USED").await;
    assert!(said["error"].as_str().unwrap().contains("agents.crt"), "{said}");
    assert_eq!(agent(&server, &ca, &secret, Some(&new)).await, Ok(101));
}
