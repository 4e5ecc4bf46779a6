//! The certificate that users and agents see: given, or generated and kept. Its files are read again when they change, as
//! those of a mounted Secret do.

mod generated;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Context as _;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use crate::options;

pub const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// What a listener needs, and what keeps it up to date.
#[derive(Debug)]
pub struct ServerTls {
    pub config: Arc<rustls::ServerConfig>,
    pub files: Files,
}

/// None when TLS is off. Blocks.
pub fn open(options: &options::Tls, data_dir: &Path) -> anyhow::Result<Option<ServerTls>> {
    if !options.enabled {
        tracing::warn!("TLS is off: tokens travel in the clear unless a load balancer in front ends TLS");
        return Ok(None);
    }
    let (cert, key) = match (&options.cert_file, &options.key_file) {
        (Some(cert), Some(key)) => (cert.clone(), key.clone()),
        (None, None) => generated::ensure(&data_dir.join("tls"), &options.names)?,
        _ => anyhow::bail!("tls.cert_file and tls.key_file go together: only one is set"),
    };
    let files = Files::open(cert, key, runtime::tls::provider()).context("cannot use the certificate")?;
    let config = runtime::tls::server_config(Arc::clone(&files.shown) as _, &ALPN)?;
    Ok(Some(ServerTls { config: Arc::new(config), files }))
}

/// The certificate that new connections are shown.
#[derive(Debug)]
struct Shown(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error("cannot read {path:?}")]
    Read { path: PathBuf, source: io::Error },
    #[error("there is no certificate, or a damaged one, in {path:?}")]
    Certificate { path: PathBuf, source: pem::Error },
    #[error("there is no key, or a damaged one, in {path:?}")]
    Key { path: PathBuf, source: pem::Error },
    #[error("the certificate in {cert:?} and the key in {key:?} cannot be used together")]
    Pair { cert: PathBuf, key: PathBuf, source: rustls::Error },
}

/// Certificate and key on disk.
#[derive(Debug)]
pub struct Files {
    cert: PathBuf,
    key: PathBuf,
    provider: Arc<CryptoProvider>,
    shown: Arc<Shown>,
    /// Of the content that is shown.
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
    fn open(cert: PathBuf, key: PathBuf, provider: Arc<CryptoProvider>) -> Result<Self, FileError> {
        let content = Content::read(&cert, &key)?;
        let shown = Arc::new(Shown(RwLock::new(Arc::new(content.certified(&cert, &key, &provider)?))));
        Ok(Self { cert, key, provider, shown, digest: content.digest(), trouble: None })
    }

    /// Keeps what is shown as the files are, for ever.
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
    /// row: the two files need not change in the same moment.
    fn look(&mut self) {
        match self.changed() {
            Ok(None) => {
                if self.trouble.take().is_some_and(|trouble| trouble.told) {
                    tracing::info!(certificate = %self.cert.display(), "the files are again those of the certificate in use");
                }
            }
            Ok(Some((digest, certified))) => {
                *self.shown.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(certified);
                self.digest = digest;
                self.trouble = None;
                tracing::info!(certificate = %self.cert.display(), "certificate replaced: new connections get the new one");
            }
            Err(error) => self.complain(anyhow::Error::new(error)),
        }
    }

    fn changed(&self) -> Result<Option<([u8; 32], CertifiedKey)>, FileError> {
        let content = Content::read(&self.cert, &self.key)?;
        let digest = content.digest();
        if digest == self.digest {
            return Ok(None);
        }
        Ok(Some((digest, content.certified(&self.cert, &self.key, &self.provider)?)))
    }

    fn complain(&mut self, error: anyhow::Error) {
        let reason = format!("{error:#}");
        match &mut self.trouble {
            Some(trouble) if trouble.reason == reason => {
                if !trouble.told {
                    trouble.told = true;
                    tracing::error!(
                        error = reason,
                        "THE NEW CERTIFICATE CANNOT BE USED: connections go on getting the old one until it expires; mend the files"
                    );
                }
            }
            trouble => *trouble = Some(Trouble { reason, told: false }),
        }
    }
}

/// The bytes of both files.
struct Content {
    cert: Vec<u8>,
    key: Vec<u8>,
}

impl Content {
    fn read(cert: &Path, key: &Path) -> Result<Self, FileError> {
        let bytes =
            |path: &Path| std::fs::read(path).map_err(|source| FileError::Read { path: path.to_owned(), source });
        Ok(Self { cert: bytes(cert)?, key: bytes(key)? })
    }

    fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.cert.len().to_le_bytes());
        hash.update(&self.cert);
        hash.update(&self.key);
        hash.finalize().into()
    }

    fn certified(&self, cert: &Path, key: &Path, provider: &CryptoProvider) -> Result<CertifiedKey, FileError> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.cert).collect();
        let chain = chain
            .and_then(|chain| if chain.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(chain) })
            .map_err(|source| FileError::Certificate { path: cert.to_owned(), source })?;
        let der = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|source| FileError::Key { path: key.to_owned(), source })?;
        CertifiedKey::from_der(chain, der, provider).map_err(|source| FileError::Pair {
            cert: cert.to_owned(),
            key: key.to_owned(),
            source,
        })
    }
}
