//! The state file's bytes: a header in the clear, and the content encrypted and bound to it.
//!
//! ```text
//!   "pipeops-state" · u8 version (1) · id of the key (8) · nonce (12) · AES-256-GCM ciphertext and tag
//!   └──────────── associated data ──────────────────┘
//! ```

use aws_lc_rs::aead::{Aad, NONCE_LEN, Nonce};

use crate::key::Key;

const MAGIC: &[u8] = b"pipeops-state";
const VERSION: u8 = 1;
const HEADER: usize = MAGIC.len() + 1 + Key::ID_LENGTH;

/// Why the bytes do not become content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("it is no state file of this agent, or its beginning is damaged")]
    Foreign,
    #[error("it is a state file of version {0}, which only a later release of this agent can read")]
    Version(u8),
    #[error("it was written with another key than the one that is set now, or its beginning is damaged")]
    OtherKey,
    #[error("the key is the right one, so it was damaged, cut short or changed since it was written")]
    Damaged,
}

/// The key could not be used.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the state cannot be encrypted")]
pub(crate) struct CannotSeal;

/// A nonce of its own for each call: 96 random bits, good for 2^32 writes with one key.
pub(crate) fn seal(key: &Key, content: &[u8]) -> Result<Vec<u8>, CannotSeal> {
    let mut file = [MAGIC, &[VERSION], &key.id].concat();
    let mut text = content.to_vec();
    let nonce = key.aead.seal_in_place_append_tag(Aad::from(&file), &mut text).map_err(|_| CannotSeal)?;
    file.extend_from_slice(nonce.as_ref());
    file.append(&mut text);
    Ok(file)
}

pub(crate) fn open(key: &Key, file: &[u8]) -> Result<Vec<u8>, Unreadable> {
    let version = file.strip_prefix(MAGIC).and_then(|rest| rest.first()).ok_or(Unreadable::Foreign)?;
    if *version != VERSION {
        return Err(Unreadable::Version(*version));
    }
    let (header, sealed) = file.split_at_checked(HEADER).ok_or(Unreadable::Damaged)?;
    if !header.ends_with(&key.id) {
        return Err(Unreadable::OtherKey);
    }
    let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(Unreadable::Damaged)?;
    let mut text = text.to_vec();
    let content = key.aead.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(header), &mut text);
    Ok(content.map_err(|_| Unreadable::Damaged)?.to_vec())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(byte: u8) -> Key {
        Key::new([byte; 32]).unwrap()
    }

    #[test]
    fn no_two_files_are_alike_and_nothing_of_the_content_shows() {
        let sealed = [(); 2].map(|()| seal(&key(1), b"s3cr3t and more").unwrap());
        assert_ne!(sealed[0], sealed[1]);
        assert!(!sealed[0].windows(6).any(|part| part == b"s3cr3t"));
        assert_eq!(open(&key(1), &sealed[0]).unwrap(), b"s3cr3t and more");
    }

    #[test]
    fn each_way_to_be_unreadable_has_its_name() {
        let sealed = seal(&key(1), b"content").unwrap();
        assert_eq!(open(&key(2), &sealed), Err(Unreadable::OtherKey));
        assert_eq!(open(&key(1), b"agent_id: x"), Err(Unreadable::Foreign));
        let mut later = sealed.clone();
        later[MAGIC.len()] = 2;
        assert_eq!(open(&key(1), &later), Err(Unreadable::Version(2)));
        for length in HEADER..sealed.len() {
            assert_eq!(open(&key(1), &sealed[..length]), Err(Unreadable::Damaged), "{length} bytes");
        }
    }

    proptest! {
        #[test]
        fn what_was_sealed_comes_back_and_no_flipped_bit_passes(
            content in prop::collection::vec(any::<u8>(), 0..200), at: prop::sample::Index, bit in 0..8_u32,
        ) {
            let mut sealed = seal(&key(3), &content).unwrap();
            prop_assert_eq!(open(&key(3), &sealed).unwrap(), content);
            let at = at.index(sealed.len());
            sealed[at] ^= 1 << bit;
            prop_assert!(open(&key(3), &sealed).is_err());
        }

        #[test]
        fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..80), ours: bool) {
            let bytes = if ours { [MAGIC, &[VERSION], &bytes].concat() } else { bytes };
            prop_assert!(open(&key(3), &bytes).is_err());
        }
    }
}
