use super::*;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use std::fs;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsConnector, client, server};

type Ends = (client::TlsStream<tokio::io::DuplexStream>, server::TlsStream<tokio::io::DuplexStream>);

/// A connection to this server, by a client that trusts `ca` alone.
async fn connect(acceptor: &Acceptor, ca: &Path, name: &str) -> io::Result<Ends> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let trusting = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let (near, far) = tokio::io::duplex(64 * 1024);
    let name = ServerName::try_from(name.to_owned()).unwrap();
    tokio::try_join!(TlsConnector::from(Arc::new(trusting)).connect(name, near), acceptor.now().accept(far))
}

async fn works((client, server): &mut Ends) {
    let mut heard = [0; 5];
    client.write_all(b"hello").await.unwrap();
    client.flush().await.unwrap();
    server.read_exact(&mut heard).await.unwrap();
    server.write_all(&heard).await.unwrap();
    server.flush().await.unwrap();
    client.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
}

/// A certificate that is its own CA, and its key.
fn pair(name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    (CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// A mounted Secret: names that lead through one link, which changes for all of them at once.
struct Secret(TempDir);

impl Secret {
    fn mount(files: &(String, String)) -> Self {
        let secret = Self(tempfile::tempdir().unwrap());
        secret.replace(files);
        for name in ["tls.crt", "tls.key"] {
            std::os::unix::fs::symlink(format!("..data/{name}"), secret.path(name)).unwrap();
        }
        secret
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn replace(&self, (cert, key): &(String, String)) {
        let folder = self.path(&format!("..{:016x}", rand::random::<u64>()));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("tls.crt"), cert).unwrap();
        fs::write(folder.join("tls.key"), key).unwrap();
        std::os::unix::fs::symlink(&folder, self.path("..next")).unwrap();
        fs::rename(self.path("..next"), self.path("..data")).unwrap();
    }

    fn open(&self) -> anyhow::Result<ServerTls> {
        let (cert_file, key_file) = (Some(self.path("tls.crt")), Some(self.path("tls.key")));
        let options = options::Tls { cert_file, key_file, ..options::Tls::default() };
        Ok(open(&options, self.0.path())?.unwrap())
    }

    /// What is trusted by who trusts this certificate alone.
    fn ca(&self, (cert, _): &(String, String)) -> PathBuf {
        let path = self.path("ca.crt");
        fs::write(&path, cert).unwrap();
        path
    }
}

#[tokio::test]
async fn a_replaced_certificate_is_shown_to_new_connections_and_open_ones_go_on() {
    let (old, new) = (pair("localhost"), pair("localhost"));
    let secret = Secret::mount(&old);
    let ServerTls { acceptor, mut files } = secret.open().unwrap();
    let mut open = connect(&acceptor, &secret.ca(&old), "localhost").await.unwrap();
    files.look();
    connect(&acceptor, &secret.ca(&new), "localhost").await.unwrap_err();
    secret.replace(&new);
    files.look();
    connect(&acceptor, &secret.ca(&new), "localhost").await.unwrap();
    connect(&acceptor, &secret.ca(&old), "localhost").await.unwrap_err();
    works(&mut open).await;
}

#[tokio::test]
async fn a_broken_pair_changes_nothing_and_is_complained_of_when_it_stays() {
    let (old, new) = (pair("localhost"), pair("localhost"));
    let secret = Secret::mount(&old);
    let ServerTls { acceptor, mut files } = secret.open().unwrap();
    let half = new.0.len() / 2;
    let broken = [
        ((new.0.clone(), old.1.clone()), "cannot be used together"),
        ((new.0[..half].to_owned(), new.1.clone()), "tls.crt"),
        ((String::new(), new.1.clone()), "tls.crt"),
        ((new.0.clone(), "no key".to_owned()), "tls.key"),
    ];
    for (pair, said) in broken {
        secret.replace(&pair);
        files.look();
        let trouble = files.trouble.as_ref().unwrap();
        assert!(!trouble.told && trouble.reason.contains(said), "{trouble:?}");
        files.look();
        assert!(files.trouble.as_ref().unwrap().told, "not told of {said}");
        connect(&acceptor, &secret.ca(&old), "localhost").await.unwrap();
    }
    fs::remove_file(secret.path("..data")).unwrap();
    files.look();
    assert!(files.trouble.as_ref().unwrap().reason.contains("cannot read"), "{:?}", files.trouble);
    connect(&acceptor, &secret.ca(&old), "localhost").await.unwrap();

    secret.replace(&old);
    files.look();
    assert!(files.trouble.is_none());
    secret.replace(&new);
    files.look();
    assert!(files.trouble.is_none());
    connect(&acceptor, &secret.ca(&new), "localhost").await.unwrap();
}

#[test]
fn a_pair_that_is_broken_from_the_start_is_an_error() {
    let (one, other) = (pair("localhost"), pair("localhost"));
    for files in [(one.0.clone(), other.1), (one.0, String::new()), (String::new(), one.1)] {
        let secret = Secret::mount(&files);
        let said = format!("{:#}", secret.open().unwrap_err());
        assert!(said.contains("tls.crt") || said.contains("tls.key"), "{said}");
    }
}

fn generated(place: &TempDir, names: &[&str]) -> anyhow::Result<Arc<Acceptor>> {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    let options = options::Tls { names, ..options::Tls::default() };
    Ok(open(&options, place.path())?.unwrap().acceptor)
}

#[tokio::test]
async fn other_names_get_another_certificate_of_the_same_ca_and_key() {
    let place = tempfile::tempdir().unwrap();
    let file = |name: &str| place.path().join("tls").join(name);
    let read = |name: &str| fs::read_to_string(file(name)).unwrap();
    let first = generated(&place, &["one.example"]).unwrap();
    connect(&first, &file("ca.crt"), "one.example").await.unwrap();
    connect(&first, &file("ca.crt"), "two.example").await.unwrap_err();
    let all = ["ca.crt", "ca.key", "server.key", "server.crt"];
    let before = all.map(read);

    generated(&place, &["one.example"]).unwrap();
    assert_eq!(all.map(read), before, "nothing has changed, and yet");

    let second = generated(&place, &["two.example", "10.1.2.3"]).unwrap();
    assert_eq!(all.map(read)[..3], before[..3]);
    for name in ["two.example", "10.1.2.3", "localhost", "127.0.0.1"] {
        connect(&second, &file("ca.crt"), name).await.unwrap();
    }
    connect(&second, &file("ca.crt"), "one.example").await.unwrap_err();

    // One of an earlier version, which took no note of the names.
    fs::remove_file(file("server.json")).unwrap();
    let third = generated(&place, &["three.example"]).unwrap();
    connect(&third, &file("ca.crt"), "three.example").await.unwrap();
}

#[tokio::test]
async fn a_certificate_that_gets_old_is_signed_anew() {
    let place = tempfile::tempdir().unwrap();
    let file = |name: &str| place.path().join("tls").join(name);
    generated(&place, &[]).unwrap();
    let before = fs::read_to_string(file("server.crt")).unwrap();
    let mut note: serde_json::Value = serde_json::from_str(&fs::read_to_string(file("server.json")).unwrap()).unwrap();
    note["at"] = "2020-01-01T00:00:00Z".into();
    fs::write(file("server.json"), note.to_string()).unwrap();
    let renewed = generated(&place, &[]).unwrap();
    assert_ne!(fs::read_to_string(file("server.crt")).unwrap(), before);
    connect(&renewed, &file("ca.crt"), "localhost").await.unwrap();
}

#[tokio::test]
async fn the_ca_is_never_replaced_by_accident() {
    let place = tempfile::tempdir().unwrap();
    let file = |name: &str| place.path().join("tls").join(name);
    generated(&place, &["one.example"]).unwrap();
    let ca = fs::read_to_string(file("ca.crt")).unwrap();
    // Whoever keeps the CA's key elsewhere goes on with what is there.
    fs::rename(file("ca.key"), file("elsewhere")).unwrap();
    let kept = generated(&place, &["two.example"]).unwrap();
    connect(&kept, &file("ca.crt"), "one.example").await.unwrap();
    // Without the certificate there is nothing to go on with.
    fs::remove_file(file("server.crt")).unwrap();
    let said = format!("{:#}", generated(&place, &["two.example"]).unwrap_err());
    assert!(said.contains("ca.key") && said.contains("put it back"), "{said}");
    fs::rename(file("elsewhere"), file("ca.key")).unwrap();
    let back = generated(&place, &["two.example"]).unwrap();
    connect(&back, &file("ca.crt"), "two.example").await.unwrap();
    assert_eq!(fs::read_to_string(file("ca.crt")).unwrap(), ca);
}

#[test]
fn a_name_that_no_certificate_can_have_is_named() {
    let place = tempfile::tempdir().unwrap();
    for wrong in ["two words", "", "https://one.example", "one.example:8443", "one..example"] {
        let said = format!("{:#}", generated(&place, &["one.example", wrong]).unwrap_err());
        assert!(said.contains(&format!("{wrong:?}")) && said.contains("tls.names"), "{said}");
    }
    assert!(!place.path().join("tls").exists());
    generated(&place, &["*.one.example", "under_score", "::1"]).unwrap();
}
