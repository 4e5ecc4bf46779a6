//! Files that are made from code and committed.

use crate::{
    folders,
    progress::Progress,
    services::{Profile, Services},
};
use anyhow::{Context, Result, bail};
use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Stdio,
};
use tokio::process::Command;

/// Where the chart reads the bus's permissions, from the root.
const PERMISSIONS: &str = "charts/pipeops-agent/charts/nats/files/permissions.yaml";

/// `cargo lab generate`.
pub(super) async fn run() -> Result<()> {
    for (path, content) in outputs(&Progress::detect()).await? {
        let file = folders::workspace().join(&path);
        if std::fs::read_to_string(&file).is_ok_and(|old| old == content) {
            println!("{} is as it should be", path.display());
        } else {
            folders::write_atomically(&file, content.as_bytes(), 0o644)?;
            println!("{} written", path.display());
        }
    }
    Ok(())
}

/// Fails when a committed file is not what would be made now.
pub(super) async fn check(progress: &Progress) -> Result<()> {
    let mut stale = Vec::new();
    for (path, content) in outputs(progress).await? {
        if std::fs::read_to_string(folders::workspace().join(&path)).unwrap_or_default() != content {
            stale.push(path.display().to_string());
        }
    }
    if stale.is_empty() {
        return Ok(());
    }
    bail!("not what the code says: {}; run `cargo lab generate`", stale.join(", "))
}

/// Path from the root, and text, of every generated file.
async fn outputs(progress: &Progress) -> Result<Vec<(PathBuf, String)>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let permissions = ["run", "--quiet", "--release", "--example", "permissions"];
    let mut outputs = vec![(PathBuf::from(PERMISSIONS), stdout(&cargo, &permissions).await?)];
    let services = Services::build(Profile::Release, progress).await?;
    for (name, binary) in services.iter() {
        // The control plane is a tool with commands; its settings are those of one of them.
        let args: &[&str] = if name == "control-plane" { &["serve", "--print-schema"] } else { &["--print-schema"] };
        let schema = stdout(binary.as_os_str(), args).await?;
        outputs.push((Path::new("services").join(name).join("config.schema.json"), schema));
    }
    Ok(outputs)
}

async fn stdout(program: &OsStr, args: &[&str]) -> Result<String> {
    let what = || format!("{} {}", Path::new(program).file_name().unwrap_or(program).display(), args.join(" "));
    let mut command = Command::new(program);
    command.args(args).current_dir(folders::workspace()).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.with_context(|| format!("cannot run {}", what()))?;
    if !output.status.success() {
        bail!("{} ended with {}: {}", what(), output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}
