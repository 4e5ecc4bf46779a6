//! What unpacks to very much; alone in its binary, so that nothing else counts.

use bytes::Bytes;
use deflate::{Deflated, Violation};
use flate2::{Compress, Compression, FlushCompress};
use futures::FutureExt as _;
use tokio::io::AsyncReadExt as _;

const MIB: usize = 1 << 20;
const LIMIT: usize = 4 * MIB;

#[test]
fn a_gibibyte_in_a_mebibyte_takes_no_more_than_the_limit() {
    // After a full flush nothing refers to what was before: a mebibyte of zeros can be repeated.
    let mut compress = Compress::new(Compression::best(), false);
    let mut zeros = Vec::with_capacity(MIB);
    compress.compress_vec(&vec![0; MIB], &mut zeros, FlushCompress::Full).unwrap();
    let payload = zeros.repeat(1024);
    assert!(payload.len() < 2 * MIB, "{}", payload.len());
    let mut frame = vec![0xc2, 0x80 | 127];
    frame.extend((payload.len() as u64).to_be_bytes());
    // A mask that changes nothing.
    frame.extend([0; 4]);
    frame.extend(payload);
    let frame = Bytes::from(frame);

    let mut error = None;
    let used = allocation_counter::measure(|| {
        let mut connection = Deflated::accepted(tokio::io::empty(), frame, LIMIT);
        let mut some = vec![0; 32 * 1024];
        error = Some(connection.read(&mut some).now_or_never().unwrap().unwrap_err());
    });
    let violation = error.unwrap().into_inner().unwrap().downcast().unwrap();
    assert!(matches!(*violation, Violation::TooBig { limit: LIMIT }), "{violation}");
    let most = u64::try_from(3 * LIMIT).unwrap();
    assert!(used.bytes_max < most, "{used:?}");
}
