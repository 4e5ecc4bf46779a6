//! Where parts are looked for, and where what was made is kept.

use super::{Build, Part, find::is_executable};
use crate::{folders, progress::Step};
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
};

/// Where things are for this user.
#[derive(Clone, Debug)]
pub(super) struct Places {
    /// `$KUBEBUILDER_ASSETS`.
    pub(super) assets: Option<PathBuf>,
    /// `$PATH`.
    pub(super) path: Vec<PathBuf>,
    /// One folder per part, with its go.mod, go.sum and maybe requirements.txt.
    pub(super) modules: PathBuf,
    /// One folder per part.
    pub(super) cache: PathBuf,
}

impl Places {
    pub(super) fn of_user() -> Result<Self> {
        Ok(Self {
            assets: std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from),
            path: std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect(),
            modules: folders::part_modules(),
            cache: folders::cache()?.join("parts"),
        })
    }

    pub(super) fn module(&self, part: &Part) -> PathBuf {
        self.modules.join(part.module)
    }

    /// The first program of that name on `PATH`.
    pub(super) fn program(&self, name: &str) -> Option<PathBuf> {
        self.path.iter().map(|folder| folder.join(name)).find(|file| is_executable(file))
    }

    /// The part's own folder in the cache.
    pub(super) fn base(&self, part: &Part) -> PathBuf {
        self.cache.join(part.name)
    }

    /// Where what the build gives is kept. Which Go or Rust builds it is not part of the name: a warm cache has to do without either.
    pub(super) fn built(&self, part: &Part) -> Result<PathBuf> {
        let flags = part.flags();
        let more = std::iter::once(flags.as_str()).chain(part.binaries.iter().map(|binary| binary.package));
        // Most parts are somebody else's program; one is our own, around somebody else's libraries.
        let own = self.module(part).join("main.go").exists().then_some("main.go");
        let files: &[&str] = match part.build {
            Build::Rust => &["Cargo.toml", "Cargo.lock", "src/main.rs"],
            Build::Pure | Build::C { .. } => &["go.mod", "go.sum"],
        };
        self.slot(part, files.iter().copied().chain(own), more)
    }

    /// Where what the package gives is kept; `None` for a part without one.
    pub(super) fn packaged(&self, part: &Part) -> Result<Option<PathBuf>> {
        if self.module(part).join(super::package::REQUIREMENTS).exists() {
            return self.slot(part, std::iter::once(super::package::REQUIREMENTS), std::iter::empty()).map(Some);
        }
        Ok(None)
    }

    /// A folder named by everything that decides what comes out.
    fn slot<'a>(
        &self,
        part: &Part,
        files: impl Iterator<Item = &'a str>,
        more: impl Iterator<Item = &'a str>,
    ) -> Result<PathBuf> {
        let mut hash = Sha256::new();
        for file in files {
            let path = self.module(part).join(file);
            hash.update(std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?);
        }
        for text in more {
            hash.update(text);
        }
        hash.update(std::env::consts::ARCH);
        let hash = hash.finalize();
        let name = hash.iter().take(8).fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        Ok(self.base(part).join(name))
    }
}

pub(super) fn complete(part: &Part, folder: &Path) -> bool {
    part.binaries.iter().all(|binary| is_executable(&folder.join(binary.name)))
}

/// Holds the part's lock file until dropped, so that two runs do not make the same thing.
pub(super) async fn lock(base: &Path, step: &Step) -> Result<File> {
    std::fs::create_dir_all(base).with_context(|| format!("cannot create {}", base.display()))?;
    let path = base.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => step.at("another run is building it: waiting"),
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("cannot lock {}", path.display()));
        }
    }
    tokio::task::spawn_blocking(move || file.lock().map(|()| file))
        .await
        .context("waiting for the lock ended early")?
        .with_context(|| format!("cannot lock {}", path.display()))
}

/// An empty folder to make the part in. Nobody else makes it now, so what an aborted run left can go.
pub(super) fn workshop(base: &Path) -> Result<PathBuf> {
    let folder = base.join("building");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}

/// Puts what was made in its place, whole.
pub(super) fn keep(workshop: &Path, target: &Path) -> Result<()> {
    if target.exists() {
        std::fs::remove_dir_all(target).with_context(|| format!("cannot replace {}", target.display()))?;
    }
    std::fs::rename(workshop, target).with_context(|| format!("cannot create {}", target.display()))
}
