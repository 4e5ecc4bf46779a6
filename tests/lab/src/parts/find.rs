//! Binaries that are here already.

use super::{Binary, Found, cache::Places, version::Version};
use std::{os::unix::fs::PermissionsExt, path::Path, process::Stdio, time::Duration};
use tokio::process::Command;

/// A program that has not said its version by then is not what it is called.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The first fitting one of `$KUBEBUILDER_ASSETS` and `PATH`.
pub(super) async fn installed(binary: &Binary, places: &Places) -> Option<Found> {
    let assets = places.assets.iter().map(|folder| ("KUBEBUILDER_ASSETS", folder));
    let path = places.path.iter().map(|folder| ("PATH", folder));
    for (source, folder) in assets.chain(path) {
        let path = folder.join(binary.name);
        if is_executable(&path)
            && let Some(version) = fitting(binary, &path).await
        {
            return Some(Found { binary: binary.name, version: version.to_string(), source, path });
        }
    }
    None
}

pub(super) fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// The version the file says it has, when it fits.
pub(super) async fn fitting(binary: &Binary, file: &Path) -> Option<Version> {
    let (arguments, fit) = binary.version?;
    let mut command = Command::new(file);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(ANSWER_WITHIN, command.output()).await.ok()?.ok()?;
    let version = Version::first_in(&String::from_utf8_lossy(&output.stdout))?;
    fit.takes(version).then_some(version)
}
