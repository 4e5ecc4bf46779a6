//! The key of the state file: where it comes from, and the forms it may have.

use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, RandomizedNonceKey};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, PAD};
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};

use crate::State;

const LENGTH: usize = 32;
/// Padding or not is no difference that anybody means.
const LENIENT: GeneralPurposeConfig = PAD.with_decode_padding_mode(DecodePaddingMode::Indifferent);
const BASE64: [GeneralPurpose; 2] = [
    GeneralPurpose::new(&base64::alphabet::STANDARD, LENIENT),
    GeneralPurpose::new(&base64::alphabet::URL_SAFE, LENIENT),
];

/// Why there is no key. None of it passes by itself.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    #[error(
        "state.file is {file:?}, but there is no key to encrypt it with: make one with `openssl rand -hex 32` in a file that only \
         this agent may read, keep a copy, and set state.key_file to it (or the key itself as PIPEOPS_STATE_KEY)"
    )]
    Unset { file: PathBuf },
    #[error("both state.key_file and state.key (PIPEOPS_STATE_KEY) are set: leave one of them out")]
    Two,
    #[error("cannot read the key file {path:?}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{place} is not a key: 32 bytes are needed, as 64 hex digits, as base64, or in a file as they are")]
    Form { place: String },
    #[error("the cipher cannot be set up")]
    Cipher,
}

/// Encrypts the state file, and tells its own files from those of another key.
pub(crate) struct Key {
    pub aead: RandomizedNonceKey,
    /// Says nothing of the key but whether it is the same one.
    pub id: [u8; Self::ID_LENGTH],
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    pub const ID_LENGTH: usize = 8;

    /// The key that the settings give for `file`. Blocks.
    pub fn of(state: &State, file: &Path) -> Result<Self, KeyError> {
        let text = state.key.as_ref().filter(|key| !key.is_empty());
        let path = state.key_file.as_ref().filter(|path| !path.as_os_str().is_empty());
        match (text, path) {
            (None, None) => Err(KeyError::Unset { file: file.to_path_buf() }),
            (Some(_), Some(_)) => Err(KeyError::Two),
            (Some(text), None) => {
                let bytes = parse(text.expose().as_bytes());
                Self::new(bytes.ok_or_else(|| KeyError::Form { place: "state.key (PIPEOPS_STATE_KEY)".into() })?)
            }
            (None, Some(path)) => {
                let content = std::fs::read(path).map_err(|source| KeyError::Read { path: path.clone(), source })?;
                let raw: Option<[u8; LENGTH]> = content.as_slice().try_into().ok();
                let bytes = raw.or_else(|| parse(&content));
                Self::new(bytes.ok_or_else(|| KeyError::Form { place: format!("the content of {path:?}") })?)
            }
        }
    }

    pub fn new(secret: [u8; LENGTH]) -> Result<Self, KeyError> {
        // Two uses, two keys: what tells keys apart stands in the clear.
        let derived = |purpose: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), purpose);
        let aead = RandomizedNonceKey::new(&AES_256_GCM, derived(b"pipeops-state encryption").as_ref());
        let mut id = [0; Self::ID_LENGTH];
        for (to, from) in id.iter_mut().zip(derived(b"pipeops-state identification").as_ref()) {
            *to = *from;
        }
        Ok(Self { aead: aead.map_err(|_| KeyError::Cipher)?, id })
    }
}

/// 64 hex digits, or base64 of 32 bytes; white space around it does not count.
fn parse(text: &[u8]) -> Option<[u8; LENGTH]> {
    let text = text.trim_ascii();
    if text.len() == 2 * LENGTH {
        return hex(text);
    }
    BASE64.iter().find_map(|alphabet| alphabet.decode(text).ok()?.try_into().ok())
}

fn hex(text: &[u8]) -> Option<[u8; LENGTH]> {
    let mut bytes = [0; LENGTH];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let digits = std::str::from_utf8(pair).ok().filter(|pair| pair.bytes().all(|b| b.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use protocol::Secret;

    use super::*;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1eFf";

    fn bytes() -> [u8; 32] {
        let mut bytes: [u8; 32] = std::array::from_fn(|i| u8::try_from(i).unwrap());
        bytes[31] = 0xff;
        bytes
    }

    fn of(key: Option<&str>, file: Option<&[u8]>) -> Result<[u8; 8], String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let key_file = file.map(|content| {
            std::fs::write(&path, content).unwrap();
            path
        });
        let state = State { key: key.map(Secret::new), key_file, ..State::default() };
        Key::of(&state, Path::new("/x/state")).map(|key| key.id).map_err(|e| e.to_string())
    }

    #[test]
    fn a_key_may_be_given_in_each_of_its_forms() {
        let expected = Ok(Key::new(bytes()).unwrap().id);
        let padded = BASE64[0].encode(bytes());
        let forms = [HEX.to_owned(), format!("  {HEX}\n"), padded.clone(), padded.trim_end_matches('=').to_owned()];
        for form in forms.iter().chain([&padded.replace('/', "_").replace('+', "-")]) {
            assert_eq!(of(Some(form), None), expected, "{form:?}");
            assert_eq!(of(None, Some(form.as_bytes())), expected, "{form:?} in a file");
        }
        assert_eq!(of(None, Some(&bytes())), expected);
        assert_ne!(Ok(Key::new([7; 32]).unwrap().id), expected);
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_shown() {
        let short = BASE64[0].encode([1; 31]);
        for bad in [&HEX[1..], &format!("{HEX}0"), "s3cr3t", short.as_str(), &HEX.replace("00", "+1"), "päßwort"] {
            for error in [of(Some(bad), None).unwrap_err(), of(None, Some(bad.as_bytes())).unwrap_err()] {
                assert!(error.contains("32 bytes") && !error.contains(bad), "{error}");
            }
        }
        assert!(of(None, Some(b"")).is_err());
    }

    #[test]
    fn exactly_one_key_is_needed() {
        let error = of(None, None).unwrap_err();
        assert!(error.contains("openssl rand -hex 32") && error.contains("/x/state"), "{error}");
        assert_eq!(of(Some(""), None).unwrap_err(), error, "an empty one is none");
        assert!(of(Some(HEX), Some(HEX.as_bytes())).unwrap_err().contains("both"));
        let state = State { key_file: Some("/nowhere/key".into()), ..State::default() };
        assert!(Key::of(&state, Path::new("s")).unwrap_err().to_string().contains("/nowhere/key"));
    }
}
