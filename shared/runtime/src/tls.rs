//! TLS by rustls with aws-lc-rs, set up the same way at every end.

mod pin;
mod verify;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{ResolvesServerCert, VerifierBuilderError, WebPkiClientVerifier},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject as _};

pub use pin::{NotPinned, ParsePinError, Pin};
use verify::Verifier;

/// How many servers a client remembers the session of. Ours talk to one or two.
const REMEMBERED_SERVERS: usize = 8;

/// Why certificates or keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {what} {path:?}")]
    Read { what: &'static str, path: PathBuf, source: pem::Error },
    #[error("there is no certificate in {path:?}")]
    NoCertificate { path: PathBuf },
    #[error("a certificate in {path:?} cannot be trusted as a CA")]
    Ca { path: PathBuf, source: rustls::Error },
    #[error("the certificate in {cert:?} and the key in {key:?} cannot be used together")]
    Pair { cert: PathBuf, key: PathBuf, source: rustls::Error },
    #[error("certificates of clients cannot be verified")]
    Clients(#[from] VerifierBuilderError),
    #[error("this TLS configuration cannot be used")]
    Config(#[source] rustls::Error),
}

/// How a client decides whom to trust.
#[derive(Debug, Clone, Copy)]
pub struct ClientTrust<'a> {
    /// PEM file of CAs to trust besides the system's.
    pub ca_file: Option<&'a Path>,
    /// False trusts `ca_file` alone: for a server with a CA of its own, such as a Kubernetes API server.
    pub system_roots: bool,
    /// Accepts any certificate: the connection is encrypted, with nobody knows whom.
    pub insecure_skip_verify: bool,
    /// When there are any, one of these keys has to be in the verified chain: that of the server's certificate, of a CA
    /// between, or of the trusted CA that it leads to. Nothing is verified of a chain with `insecure_skip_verify`: then
    /// the server's own key alone counts.
    pub pins: &'a [Pin],
    /// PEM files of a certificate to show to a server that asks for one, with its chain, and of its key.
    pub certificate: Option<(&'a Path, &'a Path)>,
}

impl Default for ClientTrust<'_> {
    fn default() -> Self {
        Self { ca_file: None, system_roots: true, insecure_skip_verify: false, pins: &[], certificate: None }
    }
}

/// Makes aws-lc-rs the process's provider. The first call counts; [`crate::run`] makes it, tests call it themselves.
pub fn install_provider() {
    // An error says that there is one already.
    let _ = aws_lc_rs::default_provider().install_default();
}

/// A server that shows the certificates that `resolver` gives. With `clients`, it asks for the certificates of clients: one
/// that these have not signed ends the handshake, none is let through for somebody else to decide.
///
/// # Errors
/// When the provider lacks what TLS 1.2 and 1.3 need, or `clients` is empty.
pub fn server_config(
    resolver: Arc<dyn ResolvesServerCert>,
    clients: Option<RootCertStore>,
    alpn: &[&[u8]],
) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(TlsError::Config)?;
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(roots) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
            builder.with_client_cert_verifier(verifier.allow_unauthenticated().build()?)
        }
    };
    let mut config = builder.with_cert_resolver(resolver);
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    // Sessions live in the clients' tickets instead of in this process's memory.
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(TlsError::Config)?;
    Ok(config)
}

/// A client that trusts what `trust` says. Files are read once, here: who has to notice a rotated one calls it again.
///
/// # Errors
/// A file that cannot be read, holds nothing of what it should, a CA that is none, a key of another certificate.
pub fn client_config(trust: ClientTrust<'_>, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = provider();
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Config)?;
    if trust.insecure_skip_verify {
        warn_of_insecurity(trust.pins);
    }
    let roots = if trust.insecure_skip_verify { None } else { Some(roots(trust)?) };
    let builder = match roots {
        Some(roots) if trust.pins.is_empty() => builder.with_root_certificates(roots),
        roots => builder.dangerous().with_custom_certificate_verifier(Arc::new(Verifier {
            roots,
            pins: trust.pins.to_vec(),
            algorithms,
        })),
    };
    let mut config = match trust.certificate {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = certificates("certificate file", cert)?;
            let private = PrivateKeyDer::from_pem_file(key).map_err(|source| TlsError::Read {
                what: "key file",
                path: key.to_owned(),
                source,
            })?;
            builder.with_client_auth_cert(chain, private).map_err(|source| TlsError::Pair {
                cert: cert.to_owned(),
                key: key.to_owned(),
                source,
            })?
        }
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.resumption = Resumption::in_memory_sessions(REMEMBERED_SERVERS);
    Ok(Arc::new(config))
}

/// A client that accepts any certificate, and says nothing of it: for servers whose certificates nobody can verify, as
/// those of Services of a cluster.
///
/// # Errors
/// When the provider lacks what TLS 1.2 and 1.3 need.
pub fn unverified_client_config(alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = provider();
    let algorithms = provider.signature_verification_algorithms;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Config)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { roots: None, pins: Vec::new(), algorithms }))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

fn warn_of_insecurity(pins: &[Pin]) {
    if pins.is_empty() {
        tracing::warn!(
            "TLS CERTIFICATES ARE NOT VERIFIED (insecure_skip_verify): anyone on the way can read and change everything, tokens included"
        );
    } else {
        tracing::warn!(
            "TLS CERTIFICATES ARE NOT VERIFIED (insecure_skip_verify): only that the server's own key is one of those pinned"
        );
    }
}

/// All certificates of a PEM file, at least one.
///
/// # Errors
/// A file that cannot be read or holds none; `what` names it in the message.
pub fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = |source| TlsError::Read { what, path: path.to_owned(), source };
    let certificates: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(read)?.collect::<Result<_, _>>().map_err(read)?;
    if certificates.is_empty() { Err(TlsError::NoCertificate { path: path.to_owned() }) } else { Ok(certificates) }
}

fn roots(trust: ClientTrust<'_>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    if trust.system_roots {
        let system = rustls_native_certs::load_native_certs();
        for error in &system.errors {
            tracing::debug!(%error, "part of the system's CAs cannot be read");
        }
        let (added, _) = roots.add_parsable_certificates(system.certs);
        if added == 0 && trust.ca_file.is_none() {
            tracing::warn!("this system has no CA certificates, so no server will be trusted; give a CA file");
        }
    }
    if let Some(path) = trust.ca_file {
        for certificate in certificates("CA file", path)? {
            roots.add(certificate).map_err(|source| TlsError::Ca { path: path.to_owned(), source })?;
        }
    }
    Ok(roots)
}

/// The process's provider.
pub fn provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default().map_or_else(|| Arc::new(aws_lc_rs::default_provider()), Arc::clone)
}
