//! How the API server is reached: address, CA and token of this pod, or those that were configured.

use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kube::Client;
use kube::config::AuthInfo;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::Kubernetes;

/// Why there is no client. All of it may pass: files appear, settings are mounted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AccessError {
    #[error(transparent)]
    NoAddress(#[from] kubernetes::NoAddress),
    #[error("the API server's address {url:?} is not a URL")]
    Address { url: String },
    #[error("cannot read CA file {path:?}: {source}")]
    ReadCa { path: PathBuf, source: io::Error },
    #[error("CA file {path:?} holds no usable PEM certificate")]
    Certificate { path: PathBuf },
    #[error("cannot read token file {path:?}: {source}")]
    ReadToken { path: PathBuf, source: io::Error },
    #[error("cannot set up a client for the API server: {0}")]
    Client(String),
}

/// A client that is made when it is first needed and again after [`Access::forget`].
#[derive(Debug)]
pub(crate) struct Access {
    options: Kubernetes,
    namespace: String,
    client: Mutex<Cached>,
}

/// kube's client has no `Debug`.
struct Cached(Option<Client>);

impl std::fmt::Debug for Cached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "connected" } else { "none" })
    }
}

impl Access {
    pub fn new(options: Kubernetes, namespace: String) -> Self {
        Self { options, namespace, client: Mutex::new(Cached(None)) }
    }

    /// Access through a given client, for tests.
    #[cfg(test)]
    pub fn fixed(client: Client, namespace: &str) -> Self {
        let access = Self::new(Kubernetes::default(), namespace.to_owned());
        access.lock().0 = Some(client);
        access
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The client. Must be called on the tokio runtime.
    pub fn client(&self) -> Result<Client, AccessError> {
        let mut cached = self.lock();
        if let Some(client) = &cached.0 {
            return Ok(client.clone());
        }
        let client = self.connect()?;
        cached.0 = Some(client.clone());
        Ok(client)
    }

    /// The API server refused our token: read the file again for the next request instead of within a minute.
    pub fn forget(&self) {
        self.lock().0 = None;
    }

    fn connect(&self) -> Result<Client, AccessError> {
        let url = self.options.server.url()?;
        let address = url.parse::<http::Uri>().ok().filter(|address| address.host().is_some());
        let mut config = kube::Config::new(address.ok_or(AccessError::Address { url })?);
        if config.cluster_url.scheme_str() == Some("https") {
            config.root_cert = Some(self.certificates()?);
            config.root_cert_file = Some(self.options.server.ca_file.clone());
        }
        let token_file = &self.options.server.token_file;
        std::fs::metadata(token_file).map_err(|source| AccessError::ReadToken { path: token_file.clone(), source })?;
        config.auth_info =
            AuthInfo { token_file: Some(token_file.to_string_lossy().into_owned()), ..AuthInfo::default() };
        config.default_namespace.clone_from(&self.namespace);
        // Every request has our own deadline, and the caller's retry; none may hang in a third place.
        config.default_retry = false;
        config.connect_timeout = Some(self.options.timeout.get());
        Client::try_from(config).map_err(|e| AccessError::Client(crate::objects::describe(&e)))
    }

    fn certificates(&self) -> Result<Vec<Vec<u8>>, AccessError> {
        let path = &self.options.server.ca_file;
        let pem = std::fs::read(path).map_err(|source| AccessError::ReadCa { path: path.clone(), source })?;
        let certificates: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(&pem).map(|found| found.map(|der| der.to_vec())).collect();
        certificates
            .ok()
            .filter(|found| !found.is_empty())
            .ok_or_else(|| AccessError::Certificate { path: path.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, Cached> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
