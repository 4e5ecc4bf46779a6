//! The certificate that users and agents see: given, or generated and kept; and the authorities of agents' certificates. The
//! files are read again when they change, as those of a mounted Secret do.

pub mod generated;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Context as _;
use rustls::crypto::CryptoProvider;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::{self, PemObject as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};
use tokio_rustls::TlsAcceptor;

use crate::options;

pub const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// What a listener needs, and what keeps it up to date.
#[derive(Debug)]
pub struct ServerTls {
    pub acceptor: Arc<Acceptor>,
    pub files: Files,
}

/// None when TLS is off. Blocks.
pub fn open(options: &options::Tls, data_dir: &Path) -> anyhow::Result<Option<ServerTls>> {
    if !options.enabled {
        anyhow::ensure!(options.client_ca_file.is_none(), "tls.client_ca_file needs TLS, and tls.enabled is false");
        tracing::warn!("TLS is off: tokens travel in the clear unless a load balancer in front ends TLS");
        return Ok(None);
    }
    let (cert, key) = match (&options.cert_file, &options.key_file) {
        (Some(cert), Some(key)) => (cert.clone(), key.clone()),
        (None, None) => generated::ensure(&data_dir.join("tls"), &options.names)?,
        _ => anyhow::bail!("tls.cert_file and tls.key_file go together: only one is set"),
    };
    let paths = Paths { cert, key, client_ca: options.client_ca_file.clone() };
    let files = Files::open(paths, runtime::tls::provider()).context("cannot use the certificate")?;
    Ok(Some(ServerTls { acceptor: Arc::clone(&files.acceptor), files }))
}

/// How new connections are accepted.
#[derive(Debug)]
pub struct Acceptor(RwLock<Arc<ServerConfig>>);

impl Acceptor {
    /// One whose configuration stays.
    pub fn new(config: ServerConfig) -> Arc<Self> {
        Arc::new(Self(RwLock::new(Arc::new(config))))
    }

    /// For one connection.
    pub fn now(&self) -> TlsAcceptor {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)).into()
    }
}

/// Why files are no certificate and its key.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("cannot read {path:?}")]
    Read { path: PathBuf, source: io::Error },
    #[error("there is no certificate, or a damaged one, in {path:?}")]
    Certificate { path: PathBuf, source: pem::Error },
    #[error("there is no key, or a damaged one, in {path:?}")]
    Key { path: PathBuf, source: pem::Error },
    #[error("the certificate in {cert:?} and the key in {key:?} cannot be used together")]
    Pair { cert: PathBuf, key: PathBuf, source: rustls::Error },
    #[error("a certificate in {path:?} cannot be trusted as a CA")]
    ClientCa { path: PathBuf, source: rustls::Error },
    #[error("cannot use TLS")]
    Tls(#[from] runtime::tls::TlsError),
}

#[derive(Debug)]
struct Paths {
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

/// The files on disk.
#[derive(Debug)]
pub struct Files {
    paths: Paths,
    provider: Arc<CryptoProvider>,
    acceptor: Arc<Acceptor>,
    /// Of the content in use.
    digest: [u8; 32],
    trouble: Option<Trouble>,
}

/// Why the files cannot be used as they are now.
#[derive(Debug)]
struct Trouble {
    reason: String,
    told: bool,
}

impl Files {
    fn open(paths: Paths, provider: Arc<CryptoProvider>) -> Result<Self, FileError> {
        let content = Content::read(&paths)?;
        let acceptor = Acceptor::new(content.config(&paths, &provider)?);
        Ok(Self { paths, provider, acceptor, digest: content.digest(), trouble: None })
    }

    /// Keeps what is in use as the files are, for ever.
    pub async fn watch(mut self) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let look = spawn_blocking(move || {
                self.look();
                self
            });
            match look.await {
                Ok(files) => self = files,
                Err(died) => {
                    tracing::error!(error = %died, "the certificate's files are no longer watched: restart to use new ones");
                    return;
                }
            }
        }
    }

    /// Takes over what has changed. What cannot be used changes nothing, and is complained of when it is so twice in a
    /// row: the files need not change in the same moment.
    fn look(&mut self) {
        match self.changed() {
            Ok(None) => {
                if self.trouble.take().is_some_and(|trouble| trouble.told) {
                    tracing::info!(certificate = %self.paths.cert.display(), "the files are again those of the certificate in use");
                }
            }
            Ok(Some((digest, config))) => {
                *self.acceptor.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
                self.digest = digest;
                self.trouble = None;
                tracing::info!(certificate = %self.paths.cert.display(), "certificate replaced: new connections are as the new files say");
            }
            Err(error) => self.complain(anyhow::Error::new(error)),
        }
    }

    fn changed(&self) -> Result<Option<([u8; 32], ServerConfig)>, FileError> {
        let content = Content::read(&self.paths)?;
        let digest = content.digest();
        if digest == self.digest {
            return Ok(None);
        }
        Ok(Some((digest, content.config(&self.paths, &self.provider)?)))
    }

    fn complain(&mut self, error: anyhow::Error) {
        let reason = format!("{error:#}");
        match &mut self.trouble {
            Some(trouble) if trouble.reason == reason => {
                if !trouble.told {
                    trouble.told = true;
                    tracing::error!(
                        error = reason,
                        "THE NEW CERTIFICATE CANNOT BE USED: connections go on as with the old files, until those expire; mend the new ones"
                    );
                }
            }
            trouble => *trouble = Some(Trouble { reason, told: false }),
        }
    }
}

/// The certificate in one file with the key in another. Blocks.
pub fn certified(cert: PathBuf, key: PathBuf, provider: &CryptoProvider) -> Result<CertifiedKey, FileError> {
    let paths = Paths { cert, key, client_ca: None };
    Content::read(&paths)?.certified(&paths, provider)
}

/// The bytes of the files.
struct Content {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Content {
    fn read(paths: &Paths) -> Result<Self, FileError> {
        let bytes =
            |path: &PathBuf| std::fs::read(path).map_err(|source| FileError::Read { path: path.clone(), source });
        let client_ca = paths.client_ca.as_ref().map(bytes).transpose()?;
        Ok(Self { cert: bytes(&paths.cert)?, key: bytes(&paths.key)?, client_ca })
    }

    fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for part in [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()].into_iter().flatten() {
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }

    fn certified(&self, paths: &Paths, provider: &CryptoProvider) -> Result<CertifiedKey, FileError> {
        let chain = certificates(&paths.cert, &self.cert)?;
        let der = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|source| FileError::Key { path: paths.key.clone(), source })?;
        CertifiedKey::from_der(chain, der, provider).map_err(|source| FileError::Pair {
            cert: paths.cert.clone(),
            key: paths.key.clone(),
            source,
        })
    }

    fn config(&self, paths: &Paths, provider: &CryptoProvider) -> Result<ServerConfig, FileError> {
        let certified = self.certified(paths, provider)?;
        let clients = match (&paths.client_ca, &self.client_ca) {
            (Some(path), Some(pem)) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(path, pem)? {
                    roots.add(certificate).map_err(|source| FileError::ClientCa { path: path.clone(), source })?;
                }
                Some(roots)
            }
            _ => None,
        };
        Ok(runtime::tls::server_config(Arc::new(SingleCertAndKey::from(certified)), clients, &ALPN)?)
    }
}

/// At least one.
fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    chain
        .and_then(|chain| if chain.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(chain) })
        .map_err(|source| FileError::Certificate { path: path.to_owned(), source })
}
