//! How the API server is reached by kube's client: address, CA and token of this pod, or those that were configured.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use kube::config::AuthInfo;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::{ApiServer, NoAddress};

/// Why there is no client. All of it may pass: files appear, settings are mounted.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    #[error(transparent)]
    NoAddress(#[from] NoAddress),
    #[error("the API server's address {url:?} is not a URL")]
    Address { url: String },
    #[error("cannot read CA file {path:?}: {source}")]
    ReadCa { path: PathBuf, source: io::Error },
    #[error("CA file {path:?} holds no usable PEM certificate")]
    Certificate { path: PathBuf },
    #[error("cannot read token file {path:?}: {source}")]
    ReadToken { path: PathBuf, source: io::Error },
    #[error("cannot set up a client for the API server: {0}")]
    Client(Box<kube::Error>),
}

impl ApiServer {
    /// A client, whose requests none but the caller repeats. Must be called on the tokio runtime.
    ///
    /// # Errors
    /// When there is no address, or a file cannot be used.
    pub fn client(&self, namespace: &str, connect_timeout: Duration) -> Result<kube::Client, AccessError> {
        let url = self.url()?;
        let address = url.parse::<http::Uri>().ok().filter(|address| address.host().is_some());
        let mut config = kube::Config::new(address.ok_or(AccessError::Address { url })?);
        if config.cluster_url.scheme_str() == Some("https") {
            config.root_cert = Some(self.certificates()?);
            config.root_cert_file = Some(self.ca_file.clone());
        }
        let token_file = &self.token_file;
        std::fs::metadata(token_file).map_err(|source| AccessError::ReadToken { path: token_file.clone(), source })?;
        config.auth_info =
            AuthInfo { token_file: Some(token_file.to_string_lossy().into_owned()), ..AuthInfo::default() };
        namespace.clone_into(&mut config.default_namespace);
        // Every request has a deadline and a retry of the caller's; none may hang in a third place.
        config.default_retry = false;
        config.connect_timeout = Some(connect_timeout);
        kube::Client::try_from(config).map_err(|error| AccessError::Client(Box::new(error)))
    }

    fn certificates(&self) -> Result<Vec<Vec<u8>>, AccessError> {
        let path = &self.ca_file;
        let pem = std::fs::read(path).map_err(|source| AccessError::ReadCa { path: path.clone(), source })?;
        let certificates: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(&pem).map(|found| found.map(|der| der.to_vec())).collect();
        certificates
            .ok()
            .filter(|found| !found.is_empty())
            .ok_or_else(|| AccessError::Certificate { path: path.clone() })
    }
}
