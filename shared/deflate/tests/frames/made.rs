//! Frames made by hand: as any peer may make them.

use super::*;
use tokio::io::AsyncWriteExt as _;

/// With a mask, where a client sends it.
pub fn frame(first: u8, payload: &[u8], masked: bool) -> Vec<u8> {
    const KEY: [u8; 4] = [0x12, 0x00, 0xfe, 0x7a];
    let bit = if masked { 0x80 } else { 0 };
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..126 => frame.push(bit | u8::try_from(short).unwrap()),
        length @ 126..65_536 => {
            frame.push(bit | 126);
            frame.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
        length => {
            frame.push(bit | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    if masked {
        frame.extend(KEY);
        frame.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
    } else {
        frame.extend(payload);
    }
    frame
}

/// What a WebSocket over the layer makes of the bytes.
pub fn received(bytes: &[u8], by_server: bool, seed: u64) -> (Vec<Message>, Option<Error>) {
    let (near, mut far) = Choppy::pair(seed);
    let write = async {
        // It may have had enough.
        let _taken = far.write_all(bytes).await;
        far.shutdown().await.unwrap();
        let mut answers = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut far, &mut answers).await.unwrap();
    };
    let read = async { read(if by_server { server(near, Bytes::new()).await } else { client(near).await }).await };
    block_on(async { tokio::join!(write, read) }).1
}

#[derive(Clone, Debug)]
struct Made {
    message: Message,
    compressed: bool,
    /// Where the payload is cut.
    cuts: Vec<prop::sample::Index>,
    /// Behind the first of its frames.
    control: Option<Vec<u8>>,
}

fn made() -> impl Strategy<Value = Made> {
    let data = prop_oneof![
        text().prop_map(Message::text),
        prop::collection::vec(any::<u8>(), 0..3000).prop_map(Message::binary),
    ];
    let cuts = prop::collection::vec(any::<prop::sample::Index>(), 0..4);
    let control = prop::option::of(prop::collection::vec(any::<u8>(), 0..125));
    (data, any::<bool>(), cuts, control).prop_map(|(message, compressed, cuts, control)| Made {
        message,
        compressed,
        cuts,
        control,
    })
}

impl Made {
    /// Its bytes, and the messages that they are.
    fn frames(&self, masked: bool) -> (Vec<u8>, Vec<Message>) {
        let (opcode, data) = match &self.message {
            Message::Text(text) => (1, text.as_bytes()),
            other => (
                2,
                match other {
                    Message::Binary(data) => data.as_ref(),
                    _ => panic!("no data"),
                },
            ),
        };
        let payload = if self.compressed { packed(data) } else { data.to_vec() };
        let mut cuts: Vec<usize> = self.cuts.iter().map(|cut| cut.index(payload.len() + 1)).collect();
        cuts.extend([0, payload.len()]);
        cuts.sort_unstable();
        let rsv1 = if self.compressed { 0x40 } else { 0 };
        let last = cuts.len() - 2;
        let (mut bytes, mut messages) = (Vec::new(), Vec::new());
        for (at, ends) in cuts.windows(2).enumerate() {
            let first = if at == 0 { opcode | rsv1 } else { 0 } | if at == last { 0x80 } else { 0 };
            bytes.extend(frame(first, &payload[ends[0]..ends[1]], masked));
            if let Some(control) = self.control.as_ref().filter(|_| at == 0) {
                bytes.extend(frame(0x89, control, masked));
                messages.push(Message::Ping(control.clone().into()));
            }
        }
        let place = if last == 0 { 0 } else { messages.len() };
        messages.insert(place, self.message.clone());
        (bytes, messages)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_a_peer_compresses_and_cuts_is_read(
        made in prop::collection::vec(made(), 0..6),
        by_server: bool,
        seed: u64,
    ) {
        let (mut bytes, mut messages) = (Vec::new(), Vec::new());
        for made in made {
            let (frames, expected) = made.frames(by_server);
            bytes.extend(frames);
            messages.extend(expected);
        }
        bytes.extend(frame(0x88, &[], by_server));
        messages.push(Message::Close(None));
        let (received, end) = received(&bytes, by_server, seed);
        prop_assert!(end.is_none(), "{:?}", end);
        prop_assert_eq!(received, messages);
    }
}

#[test]
fn what_has_been_read_with_the_request_comes_first() {
    let mut bytes = frame(0xc1, &packed(b"hello hello"), true);
    bytes.extend(frame(0x81, b"again", true));
    let behind = bytes.split_off(5);
    let (near, mut far) = Choppy::pair(7);
    let (first, second) = block_on(async {
        let mut near = server(near, bytes.into()).await;
        far.write_all(&behind).await.unwrap();
        (near.next().await.unwrap().unwrap(), near.next().await.unwrap().unwrap())
    });
    assert_eq!((first, second), (Message::text("hello hello"), Message::text("again")));
}

#[test]
fn the_examples_of_the_rfc_are_read() {
    // RFC 7692, section 7.2.3: one frame, two, no compression, a block marked as the last, two blocks.
    let whole = [0xc1, 0x07, 0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    let fragments = [0x41, 0x03, 0xf2, 0x48, 0xcd, 0x80, 0x04, 0xc9, 0xc9, 0x07, 0x00];
    let stored = [0xc1, 0x0b, 0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00];
    let marked = [0xc1, 0x08, 0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00];
    let blocks = [0xc1, 0x0d, 0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00];
    for bytes in [&whole[..], &fragments, &stored, &marked, &blocks] {
        let (messages, _) = received(bytes, false, 3);
        assert_eq!(messages, [Message::text("Hello")], "{bytes:02x?}");
    }
    assert_eq!(received(&[0xc1, 0x01, 0x00], false, 3).0, [Message::text("")]);
}
