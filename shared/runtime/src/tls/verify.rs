use rustls::{
    DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    server::ParsedCertificate,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use super::{NotPinned, Pin};

/// Verifies a server in other ways than rustls does by itself. That the peer holds the key of the certificate that it shows
/// is always checked.
#[derive(Debug)]
pub(super) struct Verifier {
    /// None accepts any certificate.
    pub roots: Option<RootCertStore>,
    /// One of them has to be in the chain; with none, any key will do.
    pub pins: Vec<Pin>,
    pub algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn is_pinned(&self, pin: Result<Pin, rustls::Error>) -> bool {
        pin.is_ok_and(|pin| self.pins.contains(&pin))
    }

    /// Whether a way that leads from the certificate to a trusted CA has a pinned key on it. What a server sends besides
    /// does not count: anybody can send the certificates of others.
    fn pinned_above(&self, end: &CertificateDer<'_>, sent: &[CertificateDer<'_>], now: UnixTime) -> bool {
        let Some(roots) = &self.roots else { return false };
        let has_pin = |path: &VerifiedPath<'_>| {
            let mut between = path.intermediate_certificates().map(|certificate| Pin::of(&certificate.der()));
            let pinned = between.any(|pin| self.is_pinned(pin)) || self.pins.contains(&Pin::of_anchor(path.anchor()));
            if pinned { Ok(()) } else { Err(webpki::Error::UnknownIssuer) }
        };
        EndEntityCert::try_from(end).is_ok_and(|end| {
            let usage = KeyUsage::server_auth();
            end.verify_for_usage(self.algorithms.all, &roots.roots, sent, now, usage, None, Some(&has_pin)).is_ok()
        })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        sent: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(roots) = &self.roots {
            let certificate = ParsedCertificate::try_from(end)?;
            verify_server_cert_signed_by_trust_anchor(&certificate, roots, sent, now, self.algorithms.all)?;
            verify_server_name(&certificate, name)?;
        }
        if self.pins.is_empty() || self.is_pinned(Pin::of(end)) || self.pinned_above(end, sent, now) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(NotPinned { shown: Pin::of(end)? }.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
