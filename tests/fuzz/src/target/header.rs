//! The head of a stream. Where it is cut into pieces does not matter.

use super::kind_of;
use protocol::StreamHeader;

/// The length of version 2, of any JSON.
const LONGEST: usize = 8 * 1024 + 3;

pub(super) fn check(input: &[u8]) -> Result<String, String> {
    let whole = StreamHeader::decode(input).map_err(|error| error.to_string());
    // As it comes in pieces: the first that is no more "not yet" is what counts, and has to be what the whole is.
    let mut first = None;
    for end in 0..=input.len().min(LONGEST + 1) {
        let part = input.get(..end).unwrap_or_default();
        match StreamHeader::decode(part).map_err(|error| error.to_string()) {
            Ok(None) if end > LONGEST => return Err(format!("{end} bytes are not enough")),
            Ok(None) => {}
            decided => {
                first = Some(decided);
                break;
            }
        }
    }
    match (&whole, &first) {
        (Ok(None), None) => return Ok("more is needed".to_owned()),
        (Ok(Some(_)) | Err(_), Some(first)) if *first == whole => {}
        _ => return Err(format!("as a whole it is {whole:?}, and byte by byte {first:?}")),
    }
    let (header, length) = match whole {
        Ok(Some(decoded)) => decoded,
        Ok(None) => return Ok("more is needed".to_owned()),
        Err(error) => return Ok(kind_of(error)),
    };
    if length > input.len() {
        return Err(format!("it has {length} bytes of {}", input.len()));
    }
    for bytes in [Some(header.encode_v2()), header.encode_v1()].into_iter().flatten() {
        let read = StreamHeader::decode(&bytes).map_err(|error| format!("what it was read as is refused: {error}"))?;
        let version_1 = bytes.first() == Some(&1);
        let expected = StreamHeader {
            traceparent: header.traceparent.filter(|_| !version_1),
            deadline: header.deadline.filter(|_| !version_1),
            ..header.clone()
        };
        if read != Some((expected, bytes.len())) {
            return Err(format!("{header:?} is written as {read:?}"));
        }
    }
    Ok(format!("{:?} {} {}", header.kind, header.target.is_some(), header.traceparent.is_some()))
}
