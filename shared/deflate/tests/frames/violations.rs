//! Peers that break the rules.

use super::*;
use deflate::Violation;
use made::{frame, received};
use tokio_tungstenite::tungstenite::error::ProtocolError;

/// How it ends; what came before is read all the same.
fn end(frames: &[Vec<u8>], by_server: bool) -> Error {
    let bytes = [frame(0x81, b"before", by_server), frames.concat(), frame(0x81, b"after", by_server)].concat();
    let (messages, error) = received(&bytes, by_server, 5);
    assert_eq!(messages, [Message::text("before")], "{frames:02x?}");
    error.unwrap()
}

fn violation(frames: &[Vec<u8>], by_server: bool) -> Violation {
    let Error::Io(error) = end(frames, by_server) else { panic!("{frames:02x?}: another error") };
    *error.into_inner().unwrap().downcast().unwrap()
}

#[test]
fn bits_that_mean_nothing_are_refused() {
    let hello = packed(b"hello");
    for by_server in [false, true] {
        let frame = |first, payload: &[u8]| frame(first, payload, by_server);
        for frames in [
            // RSV2 and RSV3, alone and with RSV1.
            vec![frame(0xa1, &hello)],
            vec![frame(0x91, &hello)],
            vec![frame(0xe1, &hello)],
            // On control frames and continuations.
            vec![frame(0xc9, b"ping")],
            vec![frame(0x01, b"a"), frame(0xc0, b"b")],
            vec![frame(0x41, &hello[..2]), frame(0xc0, &hello[2..])],
            vec![frame(0x41, &hello[..2]), frame(0xc1, &hello)],
            vec![frame(0x01, b"a"), frame(0xc1, &hello)],
        ] {
            let error = end(&frames, by_server);
            assert!(matches!(error, Error::Protocol(ProtocolError::NonZeroReservedBits)), "{frames:02x?}: {error}");
        }
        let error = end(&[frame(0xc3, &hello)], by_server);
        assert!(matches!(error, Error::Protocol(ProtocolError::InvalidOpcode(3))), "{error}");
    }
}

#[test]
fn compressed_messages_that_make_no_sense_are_refused() {
    let hello = packed(b"hello");
    for by_server in [false, true] {
        let frame = |first, payload: &[u8]| frame(first, payload, by_server);
        let interleaved = [frame(0x41, &hello[..2]), frame(0x81, b"a new one")];
        assert!(matches!(violation(&interleaved, by_server), Violation::Interleaved));
        // A block of a type that there is not; a length and its complement that do not fit.
        for corrupt in [&[0x07, 0, 0][..], &[0x00, 0x05, 0x00, 0xfa, 0xfe, 0x48]] {
            assert!(matches!(violation(&[frame(0xc1, corrupt)], by_server), Violation::Corrupt), "{corrupt:02x?}");
        }
        let error = end(&[frame(0xc1, &packed(&[0xff, 0xfe]))], by_server);
        assert!(matches!(error, Error::Utf8(_)), "{error}");
    }
    let (server_s, client_s) = (made::frame(0xc1, &hello, false), made::frame(0xc1, &hello, true));
    assert!(matches!(violation(&[server_s], true), Violation::Mask));
    assert!(matches!(violation(&[client_s], false), Violation::Mask));
}

#[test]
fn a_message_may_be_as_large_as_the_limit_and_no_larger() {
    for by_server in [false, true] {
        let largest = "x".repeat(LIMIT);
        let (messages, _) = received(&frame(0xc1, &packed(largest.as_bytes()), by_server), by_server, 9);
        assert_eq!(messages, [Message::text(largest)]);
        let larger = packed(&vec![b'x'; LIMIT + 1]);
        let Violation::TooBig { limit } = violation(&[frame(0xc1, &larger, by_server)], by_server) else {
            panic!("another error")
        };
        assert_eq!(limit, LIMIT);
    }
}
