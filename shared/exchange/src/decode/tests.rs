use proptest::prelude::*;

use super::*;

/// What a decoder makes of `input` when it comes in these pieces.
fn decoded(mut decoder: Decoder, pieces: &[Bytes]) -> Result<(Vec<u8>, HeaderMap, Bytes), Malformed> {
    let (mut data, mut trailers) = (Vec::new(), HeaderMap::new());
    let mut rest = Bytes::new();
    for piece in pieces {
        if decoder.is_done() {
            rest = [rest, piece.clone()].concat().into();
            continue;
        }
        let mut input = piece.clone();
        loop {
            match decoder.decode(&mut input)? {
                Decoded::Starved => break,
                Decoded::Data(bytes) => data.extend_from_slice(&bytes),
                Decoded::Trailers(map) => trailers = map,
                Decoded::End => {
                    rest = input;
                    break;
                }
            }
        }
    }
    Ok((data, trailers, rest))
}

fn cut(all: &[u8], mut at: Vec<usize>) -> Vec<Bytes> {
    at.iter_mut().for_each(|at| *at %= all.len() + 1);
    at.extend([0, all.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| Bytes::copy_from_slice(&all[pair[0]..pair[1]])).filter(|piece| !piece.is_empty()).collect()
}

proptest! {
    #[test]
    fn a_chunked_body_is_the_same_however_it_is_cut(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..5),
        trailer in any::<bool>(),
        at in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let mut wire = Vec::new();
        for chunk in &chunks {
            wire.extend_from_slice(format!("{:x};e=\"1\"\r\n", chunk.len()).as_bytes());
            wire.extend_from_slice(chunk);
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(if trailer { b"0\r\nx-sum: 1\r\n\r\n" } else { b"0\r\n\r\n" });
        wire.extend_from_slice(b"GET /next");
        let (data, trailers, rest) = decoded(Decoder::chunked(), &cut(&wire, at)).unwrap();
        prop_assert_eq!(data, chunks.concat());
        prop_assert_eq!(trailers.contains_key("x-sum"), trailer);
        prop_assert_eq!(rest, &b"GET /next"[..]);
    }

    #[test]
    fn garbage_ends_in_an_error_or_starves(
        wire in prop::collection::vec(prop::sample::select(b"0123456789abcdefABCDEF;= \t\r\nxyz:".to_vec()), 0..200),
        at in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let whole = decoded(Decoder::chunked(), &cut(&wire, Vec::new()));
        let parts = decoded(Decoder::chunked(), &cut(&wire, at));
        prop_assert_eq!(whole, parts);
    }
}

#[test]
fn a_body_that_waits_for_more_holds_no_buffer() {
    let buffer = std::sync::Arc::new(*b"2\r\nok\r\n");
    struct Owner(std::sync::Arc<[u8; 7]>);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &*self.0
        }
    }
    let mut input = Bytes::from_owner(Owner(buffer.clone()));
    let mut decoder = Decoder::chunked();
    assert!(matches!(decoder.decode(&mut input), Ok(Decoded::Data(data)) if data == "ok"));
    assert!(matches!(decoder.decode(&mut input), Ok(Decoded::Starved)));
    assert_eq!(std::sync::Arc::strong_count(&buffer), 1);
}
