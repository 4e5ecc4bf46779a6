//! Loads that are sessions.

use crate::load::{self, Sample};
use anyhow::{Result, ensure};
use lab::Forward;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const BUFFER: usize = 256 * 1024;

/// The next session in each place as soon as the last one has ended. A session gives the number of its bytes.
pub(super) async fn sessions(places: usize, window: Duration, one: impl AsyncFn() -> Result<u64>) -> Result<Sample> {
    let one = &one;
    load::looped((0..places).map(|_| async move || one().await), window).await
}

/// A connection that is made, carries a byte there and back, and ends.
pub(super) async fn echo(forward: &Forward) -> Result<u64> {
    let mut connection = forward.connect().await?;
    connection.write_all(b"x").await?;
    ensure!(connection.read_u8().await? == b'x', "another byte comes back");
    Ok(1)
}

/// A connection that takes this many bytes and ends.
pub(super) async fn take(forward: &Forward, length: u64) -> Result<u64> {
    let mut connection = forward.connect().await?;
    let mut buffer = vec![0; BUFFER];
    let mut taken = 0;
    while taken < length {
        let read = connection.read(&mut buffer).await?;
        ensure!(read > 0, "the connection ended after {taken} of {length} bytes");
        taken += read as u64;
    }
    Ok(taken)
}
