//! Commands in the pod [`POD`].

use super::ground::{NAMESPACE, POD};
use crate::client::{Stream, Target};
use anyhow::{Context, Result, ensure};
use lab::Exec;

/// What kubectl copies at once.
const PART: usize = 32 * 1024;
/// Longer messages are for counting.
const SHORT: usize = 1024;

/// What a command has printed.
#[derive(Debug, Default)]
pub(super) struct Printed {
    /// Bytes on stdout.
    pub(super) bytes: u64,
    /// Stdout, as far as it is short.
    pub(super) text: Vec<u8>,
}

pub(super) async fn open(target: &Target, command: &[&str], stdin: bool) -> Result<Exec<Stream>> {
    let pod = format!("{}/api/v1/namespaces/{NAMESPACE}/pods/{POD}", target.prefix);
    let stream = target.connect().await.with_context(|| format!("cannot connect to {}", target.name))?;
    Exec::open(stream, &pod, target.token.as_deref(), command, stdin).await
}

/// Sends this many bytes to its stdin, and then the end.
pub(super) async fn feed(exec: &mut Exec<Stream>, length: u64) -> Result<()> {
    let part = vec![b'x'; PART];
    let mut left = length;
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(PART).min(PART);
        exec.send(part.get(..now).unwrap_or_default()).await?;
        left -= now as u64;
    }
    exec.end_input().await
}

/// Reads all output. It must end with 0.
pub(super) async fn finish(exec: Exec<Stream>) -> Result<Printed> {
    let mut printed = Printed::default();
    let read = exec.finish(|data| {
        printed.bytes += data.len() as u64;
        if data.len() < SHORT {
            printed.text.extend_from_slice(data);
        }
    });
    let ended = read.await?;
    ensure!(ended.code() == Some(0), "{}: {}", ended.status, String::from_utf8_lossy(&ended.stderr));
    Ok(printed)
}
