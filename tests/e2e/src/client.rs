//! Clients of the control plane: libraries', and bare TLS connections.

use crate::{Protocol, wire::Wire};
use anyhow::{Context, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use lab::Lab;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A bare connection to the control plane.
pub type Tls = Wire<TlsStream<TcpStream>>;

/// A cluster behind the control plane, and a user's way to it.
#[derive(Clone, Debug)]
pub struct Target {
    address: SocketAddr,
    ca_pem: String,
    tls: Arc<ClientConfig>,
    pub token: String,
    /// `/api/v1/clusters/agent/NAME/proxy`.
    pub base: String,
}

impl Target {
    /// `cluster` of the lab's control plane, as the lab's user.
    ///
    /// # Errors
    /// In a lab without services.
    pub fn new(lab: &Lab, cluster: &str) -> Result<Self> {
        let ca_pem = lab.ca_pem()?.to_owned();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).context("the control plane's CA is no PEM")?)?;
        let tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let address = lab.url()?.strip_prefix("https://").context("the control plane's URL is of another kind")?;
        Ok(Self {
            address: address.parse()?,
            ca_pem,
            tls: Arc::new(tls),
            token: lab.user_token()?.to_owned(),
            base: format!("/api/v1/clusters/agent/{cluster}/proxy"),
        })
    }

    /// A TLS connection of its own, HTTP/1.1.
    ///
    /// # Errors
    /// When the control plane is not there.
    pub async fn connect(&self) -> Result<Tls> {
        let tcp = self.tcp().await?;
        let name = ServerName::from(self.address.ip());
        Ok(Wire::new(TlsConnector::from(Arc::clone(&self.tls)).connect(name, tcp).await?))
    }

    /// A bare TCP connection to the control plane.
    ///
    /// # Errors
    /// When the control plane is not there.
    pub async fn tcp(&self) -> Result<TcpStream> {
        let tcp = TcpStream::connect(self.address).await?;
        tcp.set_nodelay(true)?;
        Ok(tcp)
    }

    /// A request's head with the token; `headers` are whole lines.
    #[must_use]
    pub fn head(&self, method: &str, path: &str, headers: &[&str]) -> Vec<u8> {
        let mut head =
            format!("{method} {}{path} HTTP/1.1\r\nhost: cp\r\nauthorization: Bearer {}\r\n", self.base, self.token);
        for header in headers {
            head.push_str(header);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    /// A connection on which a request's head has been sent.
    ///
    /// # Errors
    /// When the control plane is not there.
    pub async fn begin(&self, method: &str, path: &str, headers: &[&str]) -> Result<Tls> {
        let mut wire = self.connect().await?;
        wire.send(&self.head(method, path, headers)).await?;
        Ok(wire)
    }

    /// `https://…` of a path of the cluster.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("https://{}{}{path}", self.address, self.base)
    }

    /// A pooling client that sends the token.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn http(&self, protocol: Protocol) -> Result<reqwest::Client> {
        let mut headers = reqwest::header::HeaderMap::new();
        headers.insert("authorization", format!("Bearer {}", self.token).parse()?);
        let builder = reqwest::Client::builder()
            .tls_certs_only([reqwest::Certificate::from_pem(self.ca_pem.as_bytes())?])
            .no_proxy()
            .connect_timeout(Duration::from_secs(5))
            .default_headers(headers);
        let builder = match protocol {
            Protocol::Http1 => builder.http1_only(),
            // By ALPN: hyper would otherwise guess it of a plain connection.
            Protocol::Http2 => builder.http2_prior_knowledge(),
        };
        Ok(builder.build()?)
    }
}

/// kube-rs with a kubeconfig.
///
/// # Errors
/// When the file is not one.
pub async fn kube_rs(kubeconfig: &Path) -> Result<kube::Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}
