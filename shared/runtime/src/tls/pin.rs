use std::{borrow::Cow, error::Error, fmt, io, str::FromStr, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rustls::{CertificateError, OtherError, server::ParsedCertificate};
use rustls_pki_types::{CertificateDer, TrustAnchor};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};

const PREFIX: &str = "sha256/";
/// Tag of a SEQUENCE in DER.
const SEQUENCE: u8 = 0x30;

/// The SHA-256 of a certificate's `SubjectPublicKeyInfo`: names its key, whoever certifies it and until when. Written as
/// `sha256/` and base64, as by curl.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pin([u8; 32]);

#[derive(Debug, Clone, thiserror::Error)]
#[error("{text:?} is no pin: expected \"sha256/\" and the base64 of 32 bytes")]
pub struct ParsePinError {
    text: String,
}

/// A server whose certificate is good, but none of whose keys is pinned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("none of the pinned keys is in its chain of certificates; the key of its own certificate is {shown}")]
pub struct NotPinned {
    pub shown: Pin,
}

impl Pin {
    /// # Errors
    /// A certificate that cannot be read.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, rustls::Error> {
        Ok(Self::of_key(&ParsedCertificate::try_from(certificate)?.subject_public_key_info()))
    }

    /// An anchor has the inside of the structure only.
    pub(super) fn of_anchor(anchor: &TrustAnchor<'_>) -> Self {
        let inside = anchor.subject_public_key_info.as_ref();
        let length = inside.len().to_be_bytes();
        let length: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
        let mut whole = vec![SEQUENCE];
        match length.as_slice() {
            [short] if *short < 0x80 => whole.push(*short),
            // A count of bytes, of which a length has eight at most.
            long => {
                whole.push(0x80 | u8::try_from(long.len()).unwrap_or_default());
                whole.extend_from_slice(long);
            }
        }
        whole.extend_from_slice(inside);
        Self::of_key(&whole)
    }

    fn of_key(info: &[u8]) -> Self {
        Self(Sha256::digest(info).into())
    }
}

impl NotPinned {
    /// Whether a handshake failed for this reason.
    #[must_use]
    pub fn reason_of(error: &io::Error) -> Option<&Self> {
        match error.get_ref()?.downcast_ref()? {
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(reason))) => reason.downcast_ref(),
            _ => None,
        }
    }
}

impl From<NotPinned> for rustls::Error {
    fn from(reason: NotPinned) -> Self {
        let reason: Arc<dyn Error + Send + Sync> = Arc::new(reason);
        CertificateError::Other(OtherError(reason)).into()
    }
}

impl FromStr for Pin {
    type Err = ParsePinError;

    fn from_str(text: &str) -> Result<Self, ParsePinError> {
        let hash = text.strip_prefix(PREFIX).and_then(|hash| BASE64_STANDARD.decode(hash).ok());
        hash.and_then(|hash| hash.try_into().ok()).map(Self).ok_or_else(|| ParsePinError { text: text.to_owned() })
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", BASE64_STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Pin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Pin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <Cow<'_, str>>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Pin {
    fn schema_name() -> Cow<'static, str> {
        "Pin".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^sha256/[A-Za-z0-9+/]{43}=$" })
    }
}
