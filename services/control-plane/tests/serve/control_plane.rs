//! A control plane of the test's own, and what clients ask it.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WantsClientCert;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, client::TlsStream};

pub const SOON: Duration = Duration::from_secs(20);

pub struct ControlPlane {
    // Killed when dropped.
    process: Child,
    log: Lines<BufReader<ChildStderr>>,
    pub address: String,
    monitor: String,
}

impl ControlPlane {
    pub async fn start(data: &Path, settings: &[(&str, &Path)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_control-plane"));
        command.arg("serve").env_clear().env("PIPEOPS_DATA_DIR", data).envs(settings.iter().copied());
        command.env("PIPEOPS_LISTEN", "127.0.0.1:0").env("PIPEOPS_SERVER_LISTEN", "127.0.0.1:0");
        let mut process = command.stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let log = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut this = Self { process, log, address: String::new(), monitor: String::new() };
        let monitor = this.says("serves health and metrics").await;
        monitor["address"].as_str().unwrap().clone_into(&mut this.monitor);
        let listens = this.says("control plane listens").await;
        listens["address"].as_str().unwrap().clone_into(&mut this.address);
        this
    }

    /// The next event of the log that says this.
    pub async fn says(&mut self, message: &str) -> Value {
        let mut before = Vec::new();
        let found = timeout(SOON, async {
            while let Some(line) = self.log.next_line().await.unwrap() {
                let event: Value = serde_json::from_str(&line).unwrap();
                if event["message"].as_str().is_some_and(|said| said.contains(message)) {
                    return Some(event);
                }
                before.push(line);
            }
            None
        });
        found.await.ok().flatten().unwrap_or_else(|| panic!("no {message:?} in\n{}", before.join("\n")))
    }

    /// The next line of the log; none once it has ended.
    pub async fn line(&mut self) -> Option<String> {
        self.log.next_line().await.unwrap()
    }

    /// What `/metrics` says under this name, labels included.
    pub async fn metric(&self, name: &str) -> f64 {
        let mut tcp = TcpStream::connect(&self.monitor).await.unwrap();
        tcp.write_all(b"GET /metrics HTTP/1.1\r\nhost: m\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        tcp.read_to_string(&mut text).await.unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in\n{text}"))
    }

    /// Asks it to end, as Kubernetes does.
    pub async fn terminate(&self) {
        let id = self.process.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().await.unwrap().success());
    }

    /// A connection that trusts this certificate alone.
    pub async fn connect(&self, ca: &str) -> std::io::Result<TlsStream<TcpStream>> {
        self.connect_as(ca, None).await
    }

    /// The same, for HTTP/2.
    pub async fn connect_http2(&self, ca: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let mut config = trusting(ca).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        self.encrypted(config).await
    }

    /// The same, with a client certificate and its key.
    pub async fn connect_as(&self, ca: &str, client: Option<(&str, &str)>) -> std::io::Result<TlsStream<TcpStream>> {
        let builder = trusting(ca);
        let config = match client {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()];
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
            }
        };
        self.encrypted(config).await
    }

    async fn encrypted(&self, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(&self.address).await?;
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), tcp).await
    }
}

pub fn trusting(ca: &str) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    ClientConfig::builder().with_root_certificates(roots)
}

/// The CA of a control plane that made its own.
pub fn ca(data: &Path) -> String {
    std::fs::read_to_string(data.join("tls/ca.crt")).unwrap()
}

/// Status and body of a GET; the connection stays open.
pub async fn get(stream: &mut TlsStream<TcpStream>, path: &str, token: &str) -> (u16, String) {
    exchange(stream, "GET", path, token, "").await
}

/// Status and body, both JSON; null where there is none.
pub async fn ask(
    stream: &mut TlsStream<TcpStream>,
    method: &str,
    path: &str,
    token: &str,
    body: &Value,
) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let (status, answer) = exchange(stream, method, path, token, &body).await;
    (status, if answer.is_empty() { Value::Null } else { serde_json::from_str(&answer).expect(&answer) })
}

async fn exchange(
    stream: &mut TlsStream<TcpStream>,
    method: &str,
    path: &str,
    token: &str,
    body: &str,
) -> (u16, String) {
    let head = format!("{method} {path} HTTP/1.1\r\nhost: cp\r\nauthorization: Bearer {token}\r\n");
    let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let head = loop {
        assert!(timeout(SOON, stream.read_buf(&mut answer)).await.unwrap().unwrap() > 0, "no answer");
        if let Some(end) = answer.windows(4).position(|w| w == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let text = String::from_utf8_lossy(&answer[..head]).to_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.map_or(0, |length| length.trim().parse().unwrap());
    while answer.len() < head + length {
        assert!(timeout(SOON, stream.read_buf(&mut answer)).await.unwrap().unwrap() > 0, "half an answer");
    }
    let status = text.split_whitespace().nth(1).unwrap().parse().unwrap();
    (status, String::from_utf8(answer.split_off(head)).unwrap())
}

/// What `control-plane token ...` prints.
pub async fn token(data: &Path, args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_control-plane"));
    let output = command.args(["token"]).args(args).env_clear().env("PIPEOPS_DATA_DIR", data).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
