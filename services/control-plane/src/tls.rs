//! The certificate that users and agents see: given, or generated once and kept.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

use crate::options;
use crate::store::write_atomically;

pub const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// None when TLS is off.
pub fn server_config(options: &options::Tls, data_dir: &Path) -> anyhow::Result<Option<Arc<rustls::ServerConfig>>> {
    if !options.enabled {
        tracing::warn!("TLS is off: tokens travel in the clear unless a load balancer in front ends TLS");
        return Ok(None);
    }
    let (cert, key) = match (&options.cert_file, &options.key_file) {
        (Some(cert), Some(key)) => (cert.clone(), key.clone()),
        (None, None) => generated(&data_dir.join("tls"), &options.names)?,
        _ => anyhow::bail!("tls.cert_file and tls.key_file go together: only one is set"),
    };
    Ok(Some(Arc::new(runtime::tls::server_config(&cert, &key, &ALPN)?)))
}

fn generated(folder: &Path, names: &[String]) -> anyhow::Result<(PathBuf, PathBuf)> {
    let [ca, ca_key, cert, key] = ["ca.crt", "ca.key", "server.crt", "server.key"].map(|name| folder.join(name));
    if cert.exists() && key.exists() {
        return Ok((cert, key));
    }
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {folder:?}"))?;
    let authority_key = KeyPair::generate().context("cannot generate a key")?;
    let authority = authority().self_signed(&authority_key).context("cannot sign the CA certificate")?;
    let issuer = Issuer::new(self::authority(), &authority_key);
    let server_key = KeyPair::generate().context("cannot generate a key")?;
    let server = server(names)?.signed_by(&server_key, &issuer).context("cannot sign the certificate")?;
    let files = [
        (&ca, authority.pem()),
        (&ca_key, authority_key.serialize_pem()),
        (&key, server_key.serialize_pem()),
        (&cert, server.pem()),
    ];
    for (path, pem) in files {
        write_atomically(path, pem.as_bytes()).with_context(|| format!("cannot write {path:?}"))?;
    }
    tracing::info!(ca = %ca.display(), "certificate generated; clients trust it by this CA");
    Ok((cert, key))
}

fn authority() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "pipeops control plane CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_for_years(&mut params, 10);
    params
}

fn server(names: &[String]) -> anyhow::Result<CertificateParams> {
    let mut all = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    all.extend(std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|name| name.trim().to_owned()));
    all.extend_from_slice(names);
    all.sort();
    all.dedup();
    let mut params = CertificateParams::new(all).context("tls.names holds a name that cannot be in a certificate")?;
    params.distinguished_name.push(DnType::CommonName, "pipeops control plane");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    valid_for_years(&mut params, 5);
    Ok(params)
}

fn valid_for_years(params: &mut CertificateParams, years: i64) {
    let now = std::time::SystemTime::now();
    let day = std::time::Duration::from_secs(24 * 3600);
    // Clocks differ: valid since yesterday.
    params.not_before = (now - day).into();
    params.not_after = (now + day * u32::try_from(years * 365).unwrap_or(365)).into();
}
