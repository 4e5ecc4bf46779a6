//! Binaries that are here already.

use super::{Binary, Fit, Found, Version};
use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::process::Command;

/// A program that has not said its version by then is not what it is called.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The first fitting one of `$KUBEBUILDER_ASSETS` and `PATH`.
pub(super) async fn installed(binary: &'static Binary) -> Option<Found> {
    let (arguments, fit) = binary.version?;
    for (source, path) in candidates(binary.name) {
        if let Some(version) = fitting(&path, arguments, fit).await {
            return Some(Found { binary: binary.name, version: version.to_string(), source, path });
        }
    }
    None
}

fn candidates(name: &str) -> Vec<(&'static str, PathBuf)> {
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").into_iter().map(|folder| ("KUBEBUILDER_ASSETS", folder.into()));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::split_paths(&path).map(|folder| ("PATH", folder)).collect::<Vec<(_, PathBuf)>>();
    assets
        .chain(path)
        .map(|(source, folder): (_, PathBuf)| (source, folder.join(name)))
        .filter(|(_, file)| is_executable(file))
        .collect()
}

pub(super) fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

async fn fitting(file: &Path, arguments: &[&str], fit: Fit) -> Option<Version> {
    let mut command = Command::new(file);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(ANSWER_WITHIN, command.output()).await.ok()?.ok()?;
    let version = Version::first_in(&String::from_utf8_lossy(&output.stdout))?;
    fit.takes(version).then_some(version)
}
