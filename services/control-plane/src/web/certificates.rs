//! What the HTTPS listener shows: a certificate of the folder, else one that is generated, by the name that is asked for.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use protocol::route::is_hostname;
use runtime::error_text;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use super::registry::Routes;
use crate::tls::certified;
use crate::tls::generated::{NAMED_FRESH, Signer};

/// How often the folder is looked at.
const LOOK: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct Certificates {
    routes: Arc<Routes>,
    provider: Arc<CryptoProvider>,
    folder: Option<PathBuf>,
    /// Of the folder, by hostname.
    given: RwLock<HashMap<String, Arc<CertifiedKey>>>,
    looked: Mutex<Looked>,
    /// None: there is no CA that could sign.
    signer: Option<Signer>,
    /// By hostnames that have routes, which is what bounds it.
    signed: Mutex<HashMap<String, (Instant, Arc<CertifiedKey>)>>,
}

#[derive(Debug, Default)]
struct Looked {
    seen: Files,
    /// Why certificates cannot be used, by hostname; and whether it was told.
    troubles: HashMap<String, (String, bool)>,
}

/// When each file was written, and its length.
type Files = BTreeMap<PathBuf, (SystemTime, u64)>;

impl Certificates {
    /// `authority` is the folder of the CA that signs those that are generated. Blocks.
    pub fn open(routes: Arc<Routes>, folder: Option<PathBuf>, authority: &Path) -> anyhow::Result<Arc<Self>> {
        let signer = Signer::open(authority).inspect_err(|error| {
            tracing::warn!(
                error = format!("{error:#}"),
                "no certificates are generated: apps are served over HTTPS only where gateway.cert_dir has one"
            );
        });
        let this = Self {
            routes,
            provider: runtime::tls::provider(),
            folder,
            given: RwLock::default(),
            looked: Mutex::default(),
            signer: signer.ok(),
            signed: Mutex::default(),
        };
        this.look()?;
        Ok(Arc::new(this))
    }

    /// Follows the folder, for ever.
    pub async fn watch(self: Arc<Self>) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let this = Arc::clone(&self);
            match spawn_blocking(move || this.look()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::error!(error = format!("{error:#}"), "the certificates stay as they are");
                }
                Err(died) => tracing::error!(error = %died, "the certificates stay as they are"),
            }
        }
    }

    fn look(&self) -> anyhow::Result<()> {
        use anyhow::Context as _;
        let Some(folder) = &self.folder else { return Ok(()) };
        let files = files(folder).with_context(|| format!("cannot read {folder:?} (gateway.cert_dir)"))?;
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.seen == files && looked.troubles.values().all(|(_, told)| *told) {
            return Ok(());
        }
        let before = self.given.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut now = HashMap::new();
        let mut troubles = HashMap::new();
        for cert in files.keys() {
            let Some(hostname) = hostname(cert) else { continue };
            match certified(cert.clone(), cert.with_extension("key"), &self.provider) {
                Ok(certified) => {
                    now.insert(hostname, Arc::new(certified));
                }
                Err(error) => {
                    let reason = error_text(&error).to_string();
                    // Complained of when it is so twice in a row: the two files need not change in the same moment.
                    let told = looked.troubles.get(&hostname).is_some_and(|(before, _)| *before == reason);
                    if told {
                        tracing::error!(hostname, error = reason, "A CERTIFICATE OF gateway.cert_dir CANNOT BE USED");
                    }
                    if let Some(old) = before.get(&hostname) {
                        now.insert(hostname.clone(), Arc::clone(old));
                    }
                    troubles.insert(hostname, (reason, told));
                }
            }
        }
        let hostnames = now.len();
        *self.given.write().unwrap_or_else(PoisonError::into_inner) = now;
        *looked = Looked { seen: files, troubles };
        tracing::info!(hostnames, "certificates of web apps are read");
        Ok(())
    }

    fn find(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        // Its Service shows its own.
        if self.routes.host(name).is_some_and(|host| host.passthrough.is_some()) {
            return None;
        }
        let given = self.given.read().unwrap_or_else(PoisonError::into_inner);
        let wildcard = || given.get(&format!("*.{}", name.split_once('.')?.1));
        if let Some(certified) = given.get(name).or_else(wildcard) {
            return Some(Arc::clone(certified));
        }
        drop(given);
        self.generated(name)
    }

    fn generated(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let (signer, host) = (self.signer.as_ref()?, self.routes.host(name)?);
        let mut signed = self.signed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, certified)) = signed.get(&host.hostname)
            && at.elapsed() < NAMED_FRESH
        {
            return Some(Arc::clone(certified));
        }
        signed.retain(|hostname, _| self.routes.has(hostname));
        match signer.sign(&host.hostname, &self.provider) {
            Ok(certified) => {
                let certified = Arc::new(certified);
                signed.insert(host.hostname.clone(), (Instant::now(), Arc::clone(&certified)));
                Some(certified)
            }
            Err(error) => {
                tracing::error!(host = host.hostname, error = format!("{error:#}"), "cannot sign a certificate");
                None
            }
        }
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.find(&hello.server_name()?.to_ascii_lowercase())
    }
}

/// Of which hostname a file is the certificate.
fn hostname(file: &Path) -> Option<String> {
    if file.extension()? != "crt" {
        return None;
    }
    let stem = file.file_stem()?.to_str()?.to_ascii_lowercase();
    let hostname = stem.strip_prefix("_.").map(|rest| format!("*.{rest}")).unwrap_or(stem);
    is_hostname(&hostname).then_some(hostname)
}

/// Those of a folder, links followed: that is how Kubernetes replaces all of them at once.
fn files(folder: &Path) -> io::Result<Files> {
    let mut files = Files::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        // Gone meanwhile.
        let Ok(metadata) = std::fs::metadata(&path) else { continue };
        if metadata.is_file() {
            files.insert(path, (metadata.modified()?, metadata.len()));
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_as_its_host_is() {
        let named = |name: &str| hostname(Path::new("/certs").join(name).as_path());
        assert_eq!(named("Shop.example.com.crt").as_deref(), Some("shop.example.com"));
        assert_eq!(named("_.example.com.crt").as_deref(), Some("*.example.com"));
        assert_eq!(named("*.example.com.crt").as_deref(), Some("*.example.com"));
        for none in ["shop.example.com.key", "..data", "a b.crt", ".crt", "_._.x.crt"] {
            assert_eq!(named(none), None, "{none}");
        }
    }
}
