//! TLS by rustls with aws-lc-rs, set up the same way at every end.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    server::ResolvesServerCert,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem, pem::PemObject as _};

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
}

impl Default for ClientTrust<'_> {
    fn default() -> Self {
        Self { ca_file: None, system_roots: true, insecure_skip_verify: false }
    }
}

/// Makes aws-lc-rs the process's provider. The first call counts; [`crate::run`] makes it, tests call it themselves.
pub fn install_provider() {
    // An error says that there is one already.
    let _ = aws_lc_rs::default_provider().install_default();
}

/// A server that shows the certificates that `resolver` gives.
///
/// # Errors
/// When the provider lacks what TLS 1.2 and 1.3 need.
pub fn server_config(resolver: Arc<dyn ResolvesServerCert>, alpn: &[&[u8]]) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let mut config = builder.map_err(TlsError::Config)?.with_no_client_auth().with_cert_resolver(resolver);
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    // Sessions live in the clients' tickets instead of in this process's memory.
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(TlsError::Config)?;
    Ok(config)
}

/// A client that trusts what `trust` says. Files are read once, here: who has to notice a rotated CA calls it again.
///
/// # Errors
/// A CA file that cannot be read, holds no certificate, or one that is no CA's.
pub fn client_config(trust: ClientTrust<'_>, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = provider();
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Config)?;
    let mut config = if trust.insecure_skip_verify {
        tracing::warn!(
            "TLS CERTIFICATES ARE NOT VERIFIED (insecure_skip_verify): anyone on the way can read and change everything, tokens included"
        );
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAny(algorithms))).with_no_client_auth()
    } else {
        builder.with_root_certificates(roots(trust)?).with_no_client_auth()
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.resumption = Resumption::in_memory_sessions(REMEMBERED_SERVERS);
    Ok(Arc::new(config))
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

/// Checks that the peer holds the key of the certificate it shows, and nothing else.
#[derive(Debug)]
struct AcceptAny(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
