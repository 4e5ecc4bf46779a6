//! Packages of Debian: libraries and programs that the lab does not build itself.

use anyhow::{Context, Result, bail};
use std::{path::Path, process::Stdio};
use tokio::{process::Command, sync::Mutex};

/// apt and dpkg take turns anyway, and fail when they meet.
static TURN: Mutex<()> = Mutex::const_new(());

/// Installs those of the packages that are not installed. On systems without dpkg they are taken to be there: what is missing shows in
/// what needs it.
pub(crate) async fn install(packages: &[&str]) -> Result<()> {
    let _turn = TURN.lock().await;
    if !Path::new("/usr/bin/dpkg-query").exists() {
        return Ok(());
    }
    let missing = missing(packages).await?;
    if missing.is_empty() {
        return Ok(());
    }
    let by_hand = format!("apt-get update && apt-get install --yes --no-install-recommends {}", missing.join(" "));
    if !rustix::process::geteuid().is_root() {
        bail!("these Debian packages are missing: {}. As root: {by_hand}", missing.join(", "));
    }
    let install = [&["install", "--yes", "--no-install-recommends"], missing.as_slice()].concat();
    if apt(&install).await.is_ok() {
        return Ok(());
    }
    // The lists are missing or old. A source of the user's that does not answer is no reason to give up.
    let updated = apt(&["update"]).await;
    apt(&install)
        .await
        .map_err(|error| updated.err().unwrap_or(error))
        .with_context(|| format!("cannot install Debian packages; by hand: {by_hand}"))
}

async fn missing<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    let mut missing = Vec::new();
    for package in packages {
        let mut command = Command::new("dpkg-query");
        command
            .args(["--show", "--showformat", "${db:Status-Status}", package])
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = command.output().await.context("cannot run dpkg-query")?;
        // Once for each architecture.
        if !output.stdout.starts_with(b"installed") {
            missing.push(*package);
        }
    }
    Ok(missing)
}

async fn apt(args: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    // Another apt on this machine is waited for. One that is killed half-way leaves packages broken, so it goes on when this ends.
    command.args(["--quiet", "--option", "DPkg::Lock::Timeout=300"]).args(args);
    command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    let output = command.output().await.context("cannot run apt-get")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("apt-get {} ended with {}: {}", args.join(" "), output.status, said.trim());
    }
    Ok(())
}
