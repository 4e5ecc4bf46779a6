//! A control plane's end of the connection, a proxy before it, and the certificates of all.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    PublicKeyData as _,
};
use runtime::tls::{Pin, provider, server_config};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its chain, and its key.
pub struct Pair {
    pub chain: Vec<CertificateDer<'static>>,
    pub pem: String,
    pub key: KeyPair,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    pub fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    pub fn pin(&self) -> Pin {
        Pin::of(self.0.der()).unwrap()
    }

    pub fn sign(&self, name: &str) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Pair { chain: vec![certificate.der().clone()], pem: certificate.pem(), key }
    }
}

impl Pair {
    pub fn pin(&self) -> Pin {
        Pin::of(&self.chain[0]).unwrap()
    }

    /// The key, in no certificate: what the pin has to be the hash of.
    pub fn key_info(&self) -> Vec<u8> {
        self.key.subject_public_key_info()
    }

    fn server(&self, clients: Option<&Authority>) -> ServerConfig {
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).unwrap();
        let shown = SingleCertAndKey::from(CertifiedKey::from_der(self.chain.clone(), key, &provider()).unwrap());
        let clients = clients.map(|authority| {
            let mut roots = RootCertStore::empty();
            roots.add(authority.der()).unwrap();
            roots
        });
        server_config(Arc::new(shown), clients, &[b"http/1.1"]).unwrap()
    }
}

/// Files that settings name.
pub struct Files(TempDir);

impl Files {
    pub fn new() -> Self {
        runtime::tls::install_provider();
        Self(tempfile::tempdir().unwrap())
    }

    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

/// Opens WebSockets with whoever comes, or answers every request alike, and remembers which client certificates it was shown.
pub struct ControlPlane {
    pub address: SocketAddr,
    acceptor: Arc<Mutex<Option<TlsAcceptor>>>,
    seen: Arc<Mutex<Vec<Option<CertificateDer<'static>>>>>,
    requests: Arc<Mutex<Vec<String>>>,
    _running: JoinSet<()>,
}

impl ControlPlane {
    /// Without a certificate: without TLS.
    pub async fn start(pair: Option<&Pair>) -> Self {
        Self::with(pair, None).await
    }

    /// One that says this to each request, and closes; that says nothing, and does not.
    pub async fn answering(pair: Option<&Pair>, answer: &'static str) -> Self {
        Self::with(pair, Some(answer)).await
    }

    async fn with(pair: Option<&Pair>, answer: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = Arc::new(Mutex::new(pair.map(|pair| TlsAcceptor::from(Arc::new(pair.server(None))))));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut running = JoinSet::new();
        let (current, remembered) = (Arc::clone(&acceptor), Arc::clone(&seen));
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let heard = Arc::clone(&requests);
        running.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, seen) = (current.lock().unwrap().clone(), Arc::clone(&remembered));
                let requests = Arc::clone(&heard);
                connections.spawn(async move {
                    let Some(acceptor) = acceptor else {
                        seen.lock().unwrap().push(None);
                        return attend(tcp, answer, &requests).await;
                    };
                    let Ok(tls) = acceptor.accept(tcp).await else { return };
                    let shown = tls.get_ref().1.peer_certificates().map(|chain| chain[0].clone().into_owned());
                    seen.lock().unwrap().push(shown);
                    attend(tls, answer, &requests).await;
                });
            }
        });
        Self { address, acceptor, seen, requests, _running: running }
    }

    /// From the next connection on.
    pub fn show(&self, pair: &Pair, clients: Option<&Authority>) {
        *self.acceptor.lock().unwrap() = Some(TlsAcceptor::from(Arc::new(pair.server(clients))));
    }

    /// What was asked since the last look, with the bodies.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut *self.requests.lock().unwrap())
    }

    /// The client certificates of the connections since the last look.
    pub fn seen(&self) -> Vec<Option<CertificateDer<'static>>> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

async fn attend(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: Option<&'static str>,
    requests: &Mutex<Vec<String>>,
) {
    let Some(answer) = answer else { return link(stream).await };
    let mut request = Vec::new();
    // Every body here is this one.
    while !request.ends_with(b"\r\n\r\n{}") {
        match stream.read_u8().await {
            Ok(byte) => request.push(byte),
            Err(_) => return,
        }
    }
    requests.lock().unwrap().push(String::from_utf8(request).unwrap());
    if answer.is_empty() {
        let _ = stream.read_u8().await;
        return;
    }
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

async fn link(stream: impl AsyncRead + AsyncWrite + Unpin) {
    if let Ok(socket) = tokio_tungstenite::accept_async(stream).await {
        // Until the other end goes.
        let _ = socket.into_inner().read(&mut [0; 64]).await;
    }
}

/// What a proxy does with CONNECT.
#[derive(Clone, Copy)]
pub enum Does {
    /// Connects, whatever name it is asked for, to this address; for these credentials only, if any.
    Connect(SocketAddr, Option<&'static str>),
    /// Says this, and closes.
    Say(&'static str),
    /// Says this without an end.
    Repeat(&'static str),
    Nothing,
}

pub struct Proxy {
    pub address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    _running: JoinSet<()>,
}

impl Proxy {
    pub async fn start(does: Does, tls: Option<&Pair>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let acceptor = tls.map(|pair| TlsAcceptor::from(Arc::new(pair.server(None))));
        let mut running = JoinSet::new();
        let heard = Arc::clone(&heads);
        running.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, heads) = (acceptor.clone(), Arc::clone(&heard));
                connections.spawn(async move {
                    match acceptor {
                        Some(acceptor) => {
                            if let Ok(tls) = acceptor.accept(tcp).await {
                                serve(tls, does, &heads).await;
                            }
                        }
                        None => serve(tcp, does, &heads).await,
                    }
                });
            }
        });
        Self { address, heads, _running: running }
    }

    /// What it was asked since the last look.
    pub fn heads(&self) -> Vec<String> {
        std::mem::take(&mut *self.heads.lock().unwrap())
    }
}

async fn serve(mut client: impl AsyncRead + AsyncWrite + Unpin, does: Does, heads: &Mutex<Vec<String>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match client.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let authorized = |wanted: &str| head.contains(&format!("\r\nProxy-Authorization: Basic {wanted}\r\n"));
    let action = match does {
        Does::Connect(_, Some(wanted)) if !authorized(wanted) => Does::Say(
            "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"x\"\r\ncontent-length: 0\r\n\r\n",
        ),
        does => does,
    };
    heads.lock().unwrap().push(head);
    match action {
        Does::Connect(address, _) => {
            let mut server = TcpStream::connect(address).await.unwrap();
            client.write_all(b"HTTP/1.1 200 Connection established\r\nVia: double\r\n\r\n").await.unwrap();
            client.flush().await.unwrap();
            let _ = copy_bidirectional(&mut client, &mut server).await;
        }
        Does::Say(text) => {
            let _ = client.write_all(text.as_bytes()).await;
            let _ = client.shutdown().await;
        }
        Does::Repeat(text) => while client.write_all(text.as_bytes()).await.is_ok() {},
        Does::Nothing => {
            let _ = client.read_u8().await;
        }
    }
}
