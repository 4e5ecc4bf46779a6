use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, KeyPair};

use crate::control_plane::{ControlPlane, get};

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
