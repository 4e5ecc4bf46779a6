use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use http::HeaderValue;
use runtime::tls::{ClientTrust, TlsError, client_config};

/// How old a token in memory may be. The kubelet replaces the file long before the old token expires.
const TOKEN_AGE: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    #[error("cannot read {what} {path:?}")]
    Read { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{path:?} does not hold a token that fits a header")]
    Token { path: PathBuf },
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A bearer token in a file that its owner replaces now and then.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    current: Mutex<Option<(Instant, HeaderValue)>>,
}

impl TokenFile {
    pub fn new(path: PathBuf) -> Self {
        Self { path, current: Mutex::new(None) }
    }

    /// `Bearer <token>`, at most [`TOKEN_AGE`] behind the file.
    pub fn header(&self) -> Result<HeaderValue, CredentialError> {
        let mut current = self.lock();
        if let Some((read, value)) = current.as_ref()
            && read.elapsed() < TOKEN_AGE
        {
            return Ok(value.clone());
        }
        let text = read("the ServiceAccount token", &self.path)?;
        let text = String::from_utf8(text).map_err(|_| CredentialError::Token { path: self.path.clone() })?;
        let mut value = HeaderValue::try_from(format!("Bearer {}", text.trim()))
            .map_err(|_| CredentialError::Token { path: self.path.clone() })?;
        value.set_sensitive(true);
        if current.as_ref().is_some_and(|(_, before)| *before != value) {
            tracing::info!("the ServiceAccount token was replaced; requests carry the new one from now on");
        }
        *current = Some((Instant::now(), value.clone()));
        Ok(value)
    }

    /// The API server refused the token: read the file again for the next request.
    pub fn forget(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Instant, HeaderValue)>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// TLS settings from a CA file; rebuilt when the file has changed.
#[derive(Debug)]
pub struct CaFile {
    path: PathBuf,
    current: Mutex<Option<(SystemTime, Arc<rustls::ClientConfig>)>>,
}

impl CaFile {
    pub fn new(path: PathBuf) -> Self {
        Self { path, current: Mutex::new(None) }
    }

    /// To be called for each new connection.
    pub fn client_config(&self) -> Result<Arc<rustls::ClientConfig>, CredentialError> {
        let modified = std::fs::metadata(&self.path)
            .and_then(|meta| meta.modified())
            .map_err(|source| CredentialError::Read { what: "CA file", path: self.path.clone(), source })?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((read, config)) = current.as_ref()
            && *read == modified
        {
            return Ok(Arc::clone(config));
        }
        let trust = ClientTrust { ca_file: Some(&self.path), system_roots: false, ..ClientTrust::default() };
        let config = client_config(trust, &[])?;
        *current = Some((modified, Arc::clone(&config)));
        Ok(config)
    }
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, CredentialError> {
    std::fs::read(path).map_err(|source| CredentialError::Read { what, path: path.to_path_buf(), source })
}
