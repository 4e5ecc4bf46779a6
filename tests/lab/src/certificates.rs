//! Certificates for what a test or a bench starts beside the lab.

use crate::pki::{Authority, Subject};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// An authority of its own, apart from the cluster's and the control plane's.
pub struct Certificates {
    authority: Authority,
}

/// A certificate and its key, as PEM files.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate.
    pub cert_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
}

impl Certificates {
    /// A new authority, with its files in `folder`.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn create(folder: &Path) -> Result<Self> {
        let authority = Authority::create(folder, "lab-ca").context("cannot make certificates")?;
        Ok(Self { authority })
    }

    /// PEM file of the authority's own certificate.
    pub fn ca_file(&self) -> &Path {
        &self.authority.ca.cert_file
    }

    /// A certificate for a client or a server at 127.0.0.1 and `localhost`.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn issue(&self, name: &str) -> Result<Certificate> {
        let pair = self.authority.issue(name, &Subject { name, organisation: None }, &["localhost"], &[])?;
        Ok(Certificate { cert_file: pair.cert_file, key_file: pair.key_file })
    }
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificates").field("ca_file", &self.ca_file()).finish_non_exhaustive()
    }
}
