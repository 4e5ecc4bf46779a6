//! Where things live: the workspace, the cache of built parts, and the run folders.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// The root of this workspace.
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// Where cargo puts what it builds of it: what `CARGO_TARGET_DIR` says, or `target` in it.
pub(crate) fn target() -> PathBuf {
    let set = std::env::var_os("CARGO_TARGET_DIR").filter(|set| !set.is_empty());
    // Cargo runs in the workspace, whence it takes a relative one.
    workspace().join(set.unwrap_or_else(|| "target".into()))
}

/// The folder with one go.mod or Cargo.toml per part.
pub(crate) fn part_modules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("parts")
}

/// Built parts: `$XDG_CACHE_HOME/pipeops-lab` or `~/.cache/pipeops-lab`.
pub(crate) fn cache() -> Result<PathBuf> {
    user_folder("XDG_CACHE_HOME", ".cache")
}

/// Run folders: `$XDG_STATE_HOME/pipeops-lab` or `~/.local/state/pipeops-lab`.
pub(crate) fn state() -> Result<PathBuf> {
    user_folder("XDG_STATE_HOME", ".local/state")
}

fn user_folder(variable: &str, under_home: &str) -> Result<PathBuf> {
    let base = match std::env::var_os(variable).filter(|value| Path::new(value).is_absolute()) {
        Some(value) => PathBuf::from(value),
        None => PathBuf::from(
            std::env::var_os("HOME")
                .with_context(|| format!("neither {variable} nor HOME is set: no folder for the lab"))?,
        )
        .join(under_home),
    };
    let folder = base.join("pipeops-lab");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}

/// Writes a file so that a reader sees the old text or the new one, never a part of it. `mode` is the Unix permission bits.
pub(crate) fn write_atomically(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let write = || -> std::io::Result<()> {
        let mut file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        file.write_all(content)?;
        std::fs::rename(&temporary, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
