//! Handshakes between the two ends the runtime configures.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{path::PathBuf, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use runtime::tls::{ClientTrust, TlsError, certificates, client_config, install_provider, provider, server_config};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::{PrivateKeyDer, ServerName, pem::PemObject as _};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{TlsAcceptor, TlsConnector};

struct Files {
    _dir: TempDir,
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
}

fn files() -> Files {
    install_provider();
    let dir = tempfile::tempdir().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut leaf = CertificateParams::new(vec!["server.test".to_owned()]).unwrap();
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let leaf = leaf.signed_by(&key, &authority).unwrap();
    let write = |name: &str, content: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    Files {
        ca: write("ca.pem", authority.pem()),
        cert: write("cert.pem", leaf.pem()),
        key: write("key.pem", key.serialize_pem()),
        _dir: dir,
    }
}

/// What the client reads, and whether the second handshake resumed the first.
async fn talk(files: &Files, trust: ClientTrust<'_>, name: &'static str) -> std::io::Result<(String, Option<Vec<u8>>)> {
    let chain = certificates("certificate file", &files.cert).unwrap();
    let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
    let shown = SingleCertAndKey::from(CertifiedKey::from_der(chain, key, &provider()).unwrap());
    let server = TlsAcceptor::from(Arc::new(server_config(Arc::new(shown), None, &[b"h2", b"http/1.1"]).unwrap()));
    let client = TlsConnector::from(client_config(trust, &[b"http/1.1"]).unwrap());
    let (near, far) = tokio::io::duplex(16 * 1024);
    let serving = async {
        if let Ok(mut stream) = server.accept(far).await {
            let _ = stream.write_all(b"hello").await;
            let _ = stream.shutdown().await;
        }
    };
    let calling = async {
        let mut stream = client.connect(ServerName::try_from(name).unwrap(), near).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok((text, stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec)))
    };
    tokio::join!(serving, calling).1
}

#[tokio::test]
async fn a_ca_file_makes_its_servers_trusted_for_their_names_only() {
    let files = files();
    let trust = ClientTrust { ca_file: Some(&files.ca), system_roots: false, ..ClientTrust::default() };
    let (text, alpn) = talk(&files, trust, "server.test").await.unwrap();
    assert_eq!((text.as_str(), alpn.as_deref()), ("hello", Some(b"http/1.1".as_slice())));
    let error = talk(&files, trust, "other.test").await.unwrap_err().to_string();
    assert!(error.contains("not valid for name"), "{error}");
    assert!(talk(&files, ClientTrust { system_roots: true, ..trust }, "server.test").await.is_ok());
}

#[tokio::test]
async fn without_the_ca_file_the_server_is_not_trusted_unless_told_to() {
    let files = files();
    let error = talk(&files, ClientTrust::default(), "server.test").await.unwrap_err().to_string();
    assert!(error.contains("UnknownIssuer"), "{error}");
    let insecure = ClientTrust { insecure_skip_verify: true, ..ClientTrust::default() };
    assert_eq!(talk(&files, insecure, "other.test").await.unwrap().0, "hello");
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let files = files();
    let message = |error: TlsError| format!("{:#}", anyhow::Error::from(error));
    let gone = files.ca.with_extension("gone");
    let missing =
        message(client_config(ClientTrust { ca_file: Some(&gone), ..ClientTrust::default() }, &[]).unwrap_err());
    assert!(missing.contains("CA file") && missing.contains("ca.gone"), "{missing}");
    let trust = ClientTrust { ca_file: Some(&files.key), ..ClientTrust::default() };
    assert!(matches!(client_config(trust, &[]), Err(TlsError::NoCertificate { .. })));
}

/// A handshake message of a version below 1.2, in a record.
fn old_hello(kind: u8, version: [u8; 2], rest: &[u8]) -> Vec<u8> {
    let body = [version.as_slice(), &[7; 32], &[0], rest].concat();
    let length = u8::try_from(body.len()).unwrap();
    [&[0x16, 3, 1, 0, length + 4, kind, 0, 0, length], body.as_slice()].concat()
}

/// Fatal, `protocol_version`.
const REFUSED: [u8; 2] = [2, 70];

#[tokio::test]
async fn neither_end_speaks_a_version_below_1_2() {
    let files = files();
    let chain = certificates("certificate file", &files.cert).unwrap();
    let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
    let shown = SingleCertAndKey::from(CertifiedKey::from_der(chain, key, &provider()).unwrap());
    let server = TlsAcceptor::from(Arc::new(server_config(Arc::new(shown), None, &[]).unwrap()));
    for version in [[3, 1], [3, 2]] {
        // Two suites, no compression, and an extension of 1.2 (signature algorithms), so that the version alone is wrong.
        let extension = [0, 8, 0, 13, 0, 4, 0, 2, 4, 3];
        let hello = old_hello(1, version, &[&[0, 4, 0xc0, 0x13, 0xc0, 0x09, 1, 0], extension.as_slice()].concat());
        let (mut near, far) = tokio::io::duplex(16 * 1024);
        near.write_all(&hello).await.unwrap();
        let accepted = server.accept(far).await;
        assert!(accepted.is_err(), "{version:?}");
        let mut answer = [0; 7];
        near.read_exact(&mut answer).await.unwrap();
        assert!(answer[0] == 0x15 && answer.ends_with(&REFUSED), "{version:?}: {answer:?}");

        let trust = ClientTrust { insecure_skip_verify: true, ..ClientTrust::default() };
        let client = TlsConnector::from(client_config(trust, &[]).unwrap());
        let (near, mut far) = tokio::io::duplex(16 * 1024);
        let answering = async {
            let mut hello = [0; 5];
            far.read_exact(&mut hello).await.unwrap();
            let mut rest = vec![0; usize::from(u16::from_be_bytes([hello[3], hello[4]]))];
            far.read_exact(&mut rest).await.unwrap();
            far.write_all(&old_hello(2, version, &[0xc0, 0x13, 0])).await.unwrap();
            let mut alert = [0; 7];
            far.read_exact(&mut alert).await.unwrap();
            alert
        };
        let name = ServerName::try_from("server.test").unwrap();
        let (connected, alert) = tokio::join!(client.connect(name, near), answering);
        assert!(connected.is_err() && alert.ends_with(&REFUSED), "{version:?}: {alert:?}");
    }
}
