//! One input from others.

use rand::{
    Rng, RngExt, SeedableRng,
    rngs::StdRng,
    seq::{IndexedRandom, SliceRandom},
};

/// Longer ones show nothing more.
const LONGEST: usize = 16 * 1024;
const MOST_CHANGES: usize = 6;

/// What an input is made of, besides bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grain {
    /// JSON: names and values that mean something.
    Json(&'static [&'static str]),
    /// Numbers of two bytes, and texts of that length.
    Lengths,
    /// yamux frames, behind two bytes for the test itself.
    Frames,
    /// Frames of a WebSocket with little in them, behind two bytes as well.
    Messages,
}

const VALUES: [&str; 24] = [
    "null",
    "true",
    "false",
    "0",
    "-1",
    "65535",
    "65536",
    "4294967296",
    "18446744073709551615",
    "1e999",
    "-0.0",
    "1.5",
    "\"\"",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "\"é\"",
    "[]",
    "{}",
    "[[[[[[[[",
    "{\"a\":{\"a\":{\"a\":",
    ",",
    ":",
    "\"",
    "\\",
];
const BYTES: [u8; 9] = [0, 1, 2, 4, 0x7f, 0x80, 0xfe, 0xff, b'"'];
const LENGTHS: [u32; 10] = [0, 1, 2, 255, 256, 65_535, 65_536, 262_144, 1 << 31, u32::MAX];

/// Makes inputs; the same seed and pools make the same ones.
#[derive(Debug)]
pub(crate) struct Mutator {
    random: StdRng,
    grain: Grain,
}

impl Mutator {
    pub(crate) fn new(seed: u64, grain: Grain) -> Self {
        Self { random: StdRng::seed_from_u64(seed), grain }
    }

    /// From one of `pool`, sometimes with a part of another.
    pub(crate) fn next(&mut self, pool: &[Vec<u8>]) -> Vec<u8> {
        let mut input = pool.choose(&mut self.random).cloned().unwrap_or_default();
        for _ in 0..self.random.random_range(1..=MOST_CHANGES) {
            self.change(&mut input, pool);
        }
        input.truncate(LONGEST);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, pool: &[Vec<u8>]) {
        let random = &mut self.random;
        match random.random_range(0..10) {
            0 => {
                let bit = 1 << random.random_range(0..8_u32);
                if let Some(byte) = one_of(input, random) {
                    *byte ^= bit;
                }
            }
            1 => {
                let value = BYTES.choose(random).copied().unwrap_or_default();
                if let Some(byte) = one_of(input, random) {
                    *byte = value;
                }
            }
            2 => {
                let (from, to) = part(input.len(), random);
                input.drain(from..to);
            }
            3 => {
                let (from, to) = part(input.len(), random);
                let copy = input.get(from..to).unwrap_or_default().to_vec();
                self.insert(input, &copy);
            }
            4 => {
                let other = pool.choose(random).map(Vec::as_slice).unwrap_or_default();
                let (from, to) = part(other.len(), random);
                let piece = other.get(from..to).unwrap_or_default().to_vec();
                self.insert(input, &piece);
            }
            5 => {
                let end = place(input.len(), random);
                input.truncate(end);
            }
            6 => {
                let (from, to) = part(input.len(), random);
                input.get_mut(from..to).unwrap_or_default().shuffle(random);
            }
            _ => {
                let grain = self.grain();
                self.insert(input, &grain);
            }
        }
    }

    fn insert(&mut self, input: &mut Vec<u8>, piece: &[u8]) {
        if input.len() + piece.len() > LONGEST {
            return;
        }
        let at = match self.grain {
            // Where the last frame ends, more often than within one.
            Grain::Frames | Grain::Messages if self.random.random_bool(0.7) => input.len(),
            _ => place(input.len(), &mut self.random),
        };
        input.splice(at..at, piece.iter().copied());
    }

    fn grain(&mut self) -> Vec<u8> {
        let random = &mut self.random;
        match self.grain {
            Grain::Json(words) => {
                let word = words.choose(random).copied().unwrap_or_default();
                let value = VALUES.choose(random).copied().unwrap_or_default();
                match random.random_range(0..3) {
                    0 => value.as_bytes().to_vec(),
                    1 => format!("\"{word}\":{value},").into_bytes(),
                    _ => format!("\"{word}\"").into_bytes(),
                }
            }
            Grain::Lengths => {
                let length = LENGTHS.choose(random).copied().unwrap_or_default();
                length.to_be_bytes().get(2..).unwrap_or_default().to_vec()
            }
            Grain::Frames => frame(random),
            Grain::Messages => message(random),
        }
    }
}

/// A yamux frame: mostly one that can be, as the first that cannot is the last that is read; some with a body.
fn frame(random: &mut StdRng) -> Vec<u8> {
    const USUAL: [u16; 6] = [0, 0, 1, 2, 4, 8];
    let odd = random.random_bool(0.05);
    let version = u8::from(odd && random.random_bool(0.2));
    let kind = if odd { random.random() } else { random.random_range(0..=3_u8) };
    let flags = if odd { random.random_range(0..16) } else { USUAL.choose(random).copied().unwrap_or_default() };
    let stream = random.random_range(0..10_u32);
    let body = if kind == 0 { random.random_range(0..300_u32) } else { 0 };
    let is_whole = kind == 0 && random.random_bool(0.9);
    let length = if is_whole { body } else { LENGTHS.choose(random).copied().unwrap_or_default() };
    let mut bytes = vec![version, kind];
    bytes.extend(flags.to_be_bytes());
    bytes.extend(stream.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes.extend((0..body).map(|_| b'x'));
    bytes
}

/// A frame of a WebSocket, of any kind: with what unpacks to "Hello", or any bytes.
fn message(random: &mut StdRng) -> Vec<u8> {
    const FIRST: [u8; 10] = [0xc1, 0xc2, 0x41, 0x42, 0x00, 0x80, 0x81, 0x01, 0x89, 0x40];
    const HELLO: [u8; 7] = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    let masked = random.random_bool(0.5);
    let mut payload = HELLO.to_vec();
    if random.random_bool(0.3) {
        payload = (0..random.random_range(0..40)).map(|_| random.random()).collect();
    }
    let length = u8::try_from(payload.len()).unwrap_or_default();
    let mut bytes = vec![FIRST.choose(random).copied().unwrap_or_default(), length | if masked { 0x80 } else { 0 }];
    if masked {
        bytes.extend([0; 4]);
    }
    bytes.extend(payload);
    bytes
}

fn one_of<'a>(input: &'a mut [u8], random: &mut StdRng) -> Option<&'a mut u8> {
    let at = place(input.len(), random);
    input.get_mut(at)
}

/// 0 to `length`.
fn place(length: usize, random: &mut impl Rng) -> usize {
    random.random_range(0..=length)
}

/// A part of `length`, short more often than not.
fn part(length: usize, random: &mut impl Rng) -> (usize, usize) {
    let from = place(length, random);
    let most = if random.random_bool(0.8) { (length - from).min(32) } else { length - from };
    (from, from + place(most, random))
}
