//! A certificate of the control plane's own, signed by a CA of its own. The CA and the server's key stay as they are; the
//! certificate is signed anew when it is to have other names, or gets old.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{PrivatePkcs8KeyDer, ServerName};
use serde::{Deserialize, Serialize};

use runtime::files::write_atomically;

const CA: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
const DAY: Duration = Duration::from_secs(24 * 3600);
const AUTHORITY_DAYS: u32 = 3650;
const SERVER_DAYS: u32 = 5 * 365;
/// Signed anew at the first start after this long, well before it expires.
const RENEW_AFTER_DAYS: u32 = 4 * 365;

/// What is remembered of the certificate, beside it.
#[derive(Debug, Serialize, Deserialize)]
struct Signed {
    names: Vec<String>,
    at: Timestamp,
}

/// The files of a certificate with these names. Blocks.
pub fn ensure(folder: &Path, names: &[String]) -> anyhow::Result<(PathBuf, PathBuf)> {
    if let Some(wrong) = names.iter().find(|name| !is_name(name)) {
        anyhow::bail!("tls.names holds {wrong:?}, which is neither a host's name nor an IP address");
    }
    let [ca, ca_key, cert, key, signed] =
        [CA, CA_KEY, "server.crt", "server.key", "server.json"].map(|name| folder.join(name));
    let names = all_names(names);
    let before = std::fs::read(&signed).ok().and_then(|text| serde_json::from_slice::<Signed>(&text).ok());
    let complete = cert.exists() && key.exists();
    if complete && before.as_ref().is_some_and(|before| before.names == names && !before.is_old()) {
        return Ok((cert, key));
    }
    if complete && !ca_key.exists() {
        // Somebody keeps the CA's key elsewhere, or the certificate is not ours.
        if before.is_some() {
            tracing::warn!(
                names = names.join(", "),
                "the generated certificate is old or lacks names, and there is no {ca_key:?} to sign another: put it back and restart"
            );
        }
        return Ok((cert, key));
    }
    let authority_key = authority_at(folder)?;
    // The same key as before: a client may have pinned it.
    let server_key = key_at(&key)?;
    let issuer = Issuer::new(authority(), &authority_key);
    let server = server(&names, SERVER_DAYS)?.signed_by(&server_key, &issuer).context("cannot sign the certificate")?;
    write(&key, server_key.serialize_pem().as_bytes())?;
    write(&cert, server.pem().as_bytes())?;
    tracing::info!(ca = %ca.display(), names = names.join(", "), "certificate generated; clients trust it by this CA");
    // Last: what is not finished is begun anew.
    let text = serde_json::to_vec_pretty(&Signed { names, at: Timestamp::now() })?;
    write(&signed, &text)?;
    Ok((cert, key))
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    write_atomically(path, bytes).with_context(|| format!("cannot write {path:?}"))
}

/// The key of the CA in that folder; one is made if there is none.
fn authority_at(folder: &Path) -> anyhow::Result<KeyPair> {
    let [ca, ca_key] = [CA, CA_KEY].map(|name| folder.join(name));
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {folder:?}"))?;
    anyhow::ensure!(
        ca_key.exists() || !ca.exists(),
        "{ca_key:?} is missing, without which no certificate can be signed: put it back, or remove {folder:?} to begin with a new CA, which every agent and user then needs"
    );
    let key = key_at(&ca_key)?;
    if !ca.exists() {
        let certificate = authority().self_signed(&key).context("cannot sign the CA certificate")?;
        write(&ca_key, key.serialize_pem().as_bytes())?;
        write(&ca, certificate.pem().as_bytes())?;
    }
    Ok(key)
}

/// Signs certificates for names that come up, all of one key.
#[derive(Debug)]
pub struct Signer {
    authority: KeyPair,
    key: KeyPair,
}

/// How long those are good for; signed anew when a part of that is over.
const NAMED_DAYS: u32 = 90;
pub const NAMED_FRESH: Duration = Duration::from_secs(60 * 24 * 3600);

impl Signer {
    /// With the CA of that folder, which is made if there is none. Blocks.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        let key = KeyPair::generate().context("cannot generate a key")?;
        Ok(Self { authority: authority_at(folder)?, key })
    }

    pub fn sign(&self, hostname: &str, provider: &CryptoProvider) -> anyhow::Result<CertifiedKey> {
        let issuer = Issuer::new(authority(), &self.authority);
        let signed = server(&[hostname.to_owned()], NAMED_DAYS)?.signed_by(&self.key, &issuer)?;
        let key = PrivatePkcs8KeyDer::from(self.key.serialize_der()).into();
        Ok(CertifiedKey::from_der(vec![signed.der().clone()], key, provider)?)
    }
}

impl Signed {
    fn is_old(&self) -> bool {
        let age = Duration::try_from(Timestamp::now().duration_since(self.at)).unwrap_or_default();
        age > DAY * RENEW_AFTER_DAYS
    }
}

/// The key in that file, or a new one if there is none.
fn key_at(path: &Path) -> anyhow::Result<KeyPair> {
    if !path.exists() {
        return KeyPair::generate().context("cannot generate a key");
    }
    let pem = std::fs::read_to_string(path).with_context(|| format!("cannot read {path:?}"))?;
    KeyPair::from_pem(&pem).with_context(|| format!("there is no usable key in {path:?}: restore it from a backup"))
}

fn authority() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "pipeops control plane CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_for(&mut params, AUTHORITY_DAYS);
    params
}

/// Those asked for, and those by which this machine knows itself.
fn all_names(asked: &[String]) -> Vec<String> {
    let mut all = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    let own = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|name| name.trim().to_owned());
    all.extend(own.filter(|own| is_name(own)));
    all.extend_from_slice(asked);
    all.sort();
    all.dedup();
    all
}

/// A host's name, one with `*.` before it, or an IP address.
fn is_name(name: &str) -> bool {
    ServerName::try_from(name.strip_prefix("*.").unwrap_or(name)).is_ok()
}

fn server(names: &[String], days: u32) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(names)
        .with_context(|| format!("{names:?} holds a name that cannot be in a certificate"))?;
    params.distinguished_name.push(DnType::CommonName, "pipeops control plane");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    valid_for(&mut params, days);
    Ok(params)
}

fn valid_for(params: &mut CertificateParams, days: u32) {
    let now = std::time::SystemTime::now();
    // Clocks differ: valid since yesterday.
    params.not_before = (now - DAY).into();
    params.not_after = (now + DAY * days).into();
}
