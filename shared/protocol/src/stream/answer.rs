//! What the agent says first on a `tcp` or `udp` stream with a header of version 2: whether there is a connection.
//!
//! ```text
//! u8 0                            connected; the bytes or datagrams of the Service follow
//! u8 1 · u16 length · reason      not connected; the agent's direction ends behind it
//! ```
//! So a failed dial is never mistaken for a Service that closed at once. A stream of version 1 has no answer.

/// Longest reason, in bytes.
pub const MAX_REASON: usize = 1024;

const CONNECTED: u8 = 0;
const REFUSED: u8 = 1;

/// Whether a stream reaches its Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamAnswer {
    Connected,
    /// It is refused here or could not be dialled; why, for people.
    Refused(String),
}

/// Why bytes are not an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    #[error("a stream is answered with {0}, known are 0 (connected) and 1 (refused)")]
    Code(u8),
    #[error("the reason of a refused stream has {0} bytes, at most {MAX_REASON} are allowed")]
    TooLong(usize),
    #[error("the reason of a refused stream is not UTF-8")]
    NotUtf8,
}

impl StreamAnswer {
    /// The bytes. Of a reason that is too long the end is left out.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Connected => vec![CONNECTED],
            Self::Refused(reason) => {
                let reason = reason.get(..reason.floor_char_boundary(MAX_REASON)).unwrap_or_default();
                let length = u16::try_from(reason.len()).unwrap_or_default();
                [&[REFUSED], length.to_be_bytes().as_slice(), reason.as_bytes()].concat()
            }
        }
    }

    /// Reads an answer from the start of `buf`: it and its length in bytes, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// As soon as the bytes cannot be the beginning of an answer.
    pub fn decode(buf: &[u8]) -> Result<Option<(Self, usize)>, AnswerError> {
        let rest = match buf.split_first() {
            None => return Ok(None),
            Some((&CONNECTED, _)) => return Ok(Some((Self::Connected, 1))),
            Some((&REFUSED, rest)) => rest,
            Some((&other, _)) => return Err(AnswerError::Code(other)),
        };
        let Some((length, rest)) = rest.split_first_chunk::<2>() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes(*length));
        if length > MAX_REASON {
            return Err(AnswerError::TooLong(length));
        }
        let Some(reason) = rest.get(..length) else { return Ok(None) };
        let reason = std::str::from_utf8(reason).map_err(|_| AnswerError::NotUtf8)?;
        Ok(Some((Self::Refused(reason.to_owned()), 3 + length)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn answers_have_the_bytes_that_are_written_down() {
        assert_eq!(StreamAnswer::Connected.encode(), [0]);
        assert_eq!(StreamAnswer::Refused("no".into()).encode(), *b"\x01\x00\x02no");
        assert_eq!(StreamAnswer::decode(&[2]), Err(AnswerError::Code(2)));
        assert_eq!(StreamAnswer::decode(&[1, 4, 1]), Err(AnswerError::TooLong(1025)));
        assert_eq!(StreamAnswer::decode(b"\x01\x00\x01\xff"), Err(AnswerError::NotUtf8));
        let long = StreamAnswer::Refused("ü".repeat(600)).encode();
        assert_eq!(long.len(), 3 + MAX_REASON);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back_whatever_follows(reason in ".{0,80}", connected: bool, rest: Vec<u8>, at: prop::sample::Index) {
            let answer = if connected { StreamAnswer::Connected } else { StreamAnswer::Refused(reason) };
            let mut bytes = answer.encode();
            let length = bytes.len();
            prop_assert_eq!(StreamAnswer::decode(&bytes[..at.index(length)]), Ok(None));
            bytes.extend_from_slice(&rest);
            prop_assert_eq!(StreamAnswer::decode(&bytes), Ok(Some((answer, length))));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            if let Ok(Some((_, length))) = StreamAnswer::decode(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }
    }
}
