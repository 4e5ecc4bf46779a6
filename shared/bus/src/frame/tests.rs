use proptest::prelude::*;

use super::*;

const ADDRESS: &str = "gateway-link.abcdefghijkl";

#[test]
fn open_carries_header_and_first_bytes() {
    let frame = open(7, 3, 65536, ADDRESS, br#"{"id":"x"}"#, b"GET /").unwrap();
    let Ok(Frame::Open { id, epoch, credit, address, header, first }) = decode(&frame) else {
        panic!("not an open frame")
    };
    assert_eq!((id, epoch, credit, address.as_str()), (7, 3, 65536, ADDRESS));
    assert_eq!((&header[..], &first[..]), (&br#"{"id":"x"}"#[..], &b"GET /"[..]));
}

#[test]
fn an_address_cannot_become_another_subject() {
    for bad in ["", "a", "a.", ".a", "a.b.c", "a.*", "a.>", "a.b c", "A.b", "a.\r\nPUB x"] {
        assert_eq!(decode(&ping(1, bad)), Err(FrameError::Address), "{bad:?}");
    }
    assert!(decode(&ping(1, ADDRESS)).is_ok());
}

#[test]
fn another_version_or_kind_is_refused() {
    let mut frame = credit(1, 2).to_vec();
    frame[0] = 9;
    assert_eq!(decode(&Bytes::from(frame.clone())), Err(FrameError::Version(9)));
    frame[0] = VERSION;
    frame[1] = 99;
    assert_eq!(decode(&Bytes::from(frame)), Err(FrameError::Kind(99)));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0_u8..10) {
        let _ = decode(&Bytes::from(bytes.clone()));
        let mut framed = bytes;
        if let Some(version) = framed.first_mut() { *version = VERSION; }
        if let Some(place) = framed.get_mut(1) { *place = kind; }
        let _ = decode(&Bytes::from(framed));
    }

    #[test]
    fn data_reads_back(id: u64, sequence: u32, credit: u32, fin: bool, body in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut frame = data_header(id, sequence, credit, fin).to_vec();
        frame.extend_from_slice(&body);
        let read = decode(&Bytes::from(frame));
        prop_assert_eq!(read, Ok(Frame::Data { id, sequence, credit, fin, bytes: Bytes::from(body) }));
    }

    #[test]
    fn control_frames_read_back(id: u64, epoch: u32, granted: u32, from: u64) {
        prop_assert_eq!(decode(&credit(id, granted)), Ok(Frame::Credit { id, credit: granted }));
        prop_assert_eq!(decode(&reset(id, "why")), Ok(Frame::Reset { id, reason: "why".to_owned() }));
        let accepted = decode(&accept(id, epoch, granted, from, ADDRESS));
        prop_assert_eq!(accepted, Ok(Frame::Accept { id, epoch, credit: granted, from, address: ADDRESS.to_owned() }));
        let refused = decode(&refuse(id, Refusal::TooMany, "full"));
        prop_assert_eq!(refused, Ok(Frame::Refuse { id, why: Refusal::TooMany, reason: "full".to_owned() }));
        prop_assert_eq!(decode(&pong(epoch, ADDRESS)), Ok(Frame::Pong { epoch, address: ADDRESS.to_owned() }));
    }
}
