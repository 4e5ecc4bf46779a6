//! The lab's certificates: one CA, P-256 everywhere, made anew for each run.

use crate::folders::write_atomically;
use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use std::{
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

/// What a certificate says about its holder.
pub(crate) struct Subject<'a> {
    pub(crate) name: &'a str,
    /// Kubernetes reads it as the user's group.
    pub(crate) organisation: Option<&'a str>,
}

/// A certificate and its key, as files and as text.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) cert_file: PathBuf,
    pub(crate) key_file: PathBuf,
    pub(crate) cert_pem: String,
    pub(crate) key_pem: String,
}

/// A certificate authority in a folder.
pub(crate) struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    pub(crate) ca: Pair,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("ca", &self.ca.cert_file).finish_non_exhaustive()
    }
}

impl Authority {
    pub(crate) fn create(folder: &Path, name: &str) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let key = new_key()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(&Subject { name, organisation: None });
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).context("cannot sign the lab's CA certificate")?;
        let ca = write_pair(folder, "ca", certificate.pem(), key.serialize_pem())?;
        Ok(Self { folder: folder.to_owned(), issuer: Issuer::new(params, key), ca })
    }

    /// A certificate for clients and servers, valid for `names` and 127.0.0.1.
    pub(crate) fn issue(
        &self,
        file: &str,
        subject: &Subject<'_>,
        names: &[&str],
        addresses: &[Ipv4Addr],
    ) -> Result<Pair> {
        let key = new_key()?;
        let names = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let mut params =
            CertificateParams::new(names).with_context(|| format!("bad name in the certificate {file}"))?;
        params.distinguished_name = distinguished_name(subject);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let addresses = addresses.iter().chain([&Ipv4Addr::LOCALHOST]);
        params.subject_alt_names.extend(addresses.map(|address| SanType::IpAddress(IpAddr::V4(*address))));
        let certificate =
            params.signed_by(&key, &self.issuer).with_context(|| format!("cannot sign the certificate {file}"))?;
        write_pair(&self.folder, file, certificate.pem(), key.serialize_pem())
    }

    /// The key pair that signs ServiceAccount tokens: private file, public file.
    pub(crate) fn service_account_keys(&self) -> Result<(PathBuf, PathBuf)> {
        let key = new_key()?;
        let (private, public) = (self.folder.join("sa.key"), self.folder.join("sa.pub"));
        write_atomically(&private, key.serialize_pem().as_bytes(), 0o600)?;
        write_atomically(&public, key.public_key_pem().as_bytes(), 0o644)?;
        Ok((private, public))
    }
}

fn new_key() -> Result<KeyPair> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("cannot make a key")
}

fn distinguished_name(subject: &Subject<'_>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(organisation) = subject.organisation {
        name.push(DnType::OrganizationName, DnValue::Utf8String(organisation.to_owned()));
    }
    name.push(DnType::CommonName, DnValue::Utf8String(subject.name.to_owned()));
    name
}

fn write_pair(folder: &Path, name: &str, cert_pem: String, key_pem: String) -> Result<Pair> {
    let (cert_file, key_file) = (folder.join(format!("{name}.crt")), folder.join(format!("{name}.key")));
    write_atomically(&cert_file, cert_pem.as_bytes(), 0o644)?;
    write_atomically(&key_file, key_pem.as_bytes(), 0o600)?;
    Ok(Pair { cert_file, key_file, cert_pem, key_pem })
}
