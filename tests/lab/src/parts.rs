//! The real parts the lab runs: which, which version, and where each came from.
//!
//! A binary is taken from `$KUBEBUILDER_ASSETS` or `PATH` when its version fits, else from the cache, else built from its pinned Go
//! module or Rust package under `tests/lab/parts/<part>`. Where Go is missing or the build fails, a part that has a `requirements.txt` there comes from
//! that Python package, if the version in it fits. Both are cached by the content of everything that decides the result.
//!
//! Debian's packages of these programs are all too old for the versions that fit, so none is a source.

mod build;
mod cache;
mod find;
mod get;
mod package;
mod table;
#[cfg(test)]
mod tests;
mod version;

use crate::progress::Progress;
use anyhow::{Context, Result, anyhow};
use cache::Places;
use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{sync::Semaphore, task::JoinSet};
use version::Fit;

pub use table::PARTS;

/// Something the lab needs, of one Go module or one Rust package.
#[derive(Debug)]
pub struct Part {
    /// Its name.
    pub name: &'static str,
    /// Its folder under `tests/lab/parts`.
    module: &'static str,
    /// The version its go.mod or Cargo.toml names.
    pub version: &'static str,
    binaries: &'static [Binary],
    /// Linker flags besides `-s -w`, so that the binaries know their own version.
    ldflags: &'static str,
    build: Build,
    /// Who needs it.
    pub of: Use,
}

/// Who needs a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Every lab.
    Lab,
    /// A lab with a node.
    Node,
    /// Benches, and the test that runs each of them in small.
    Benches,
    /// Single tests.
    Tests,
    /// One bench, which asks for it when it is run in full: it takes long to build.
    OneBench,
}

/// How it is built.
#[derive(Debug)]
enum Build {
    /// By Go alone.
    Pure,
    /// By Cargo, with the versions of the package's lock file.
    Rust,
    /// By Go with a C compiler and C libraries, by Debian's names.
    C { tags: &'static str, packages: &'static [&'static str] },
}

/// One program of a part.
#[derive(Debug)]
struct Binary {
    name: &'static str,
    package: &'static str,
    /// What the build calls it.
    built_as: &'static str,
    /// How it says its version, and which versions do; `None` where it cannot say.
    version: Option<(&'static [&'static str], Fit)>,
}

/// A binary and where it is from.
#[derive(Clone, Debug)]
pub struct Found {
    /// What the lab calls it.
    pub binary: &'static str,
    /// The version it said it is, or the one it was built from.
    pub version: String,
    /// `KUBEBUILDER_ASSETS`, `PATH`, `cache`, `built now` or `package`.
    pub source: &'static str,
    /// The file.
    pub path: PathBuf,
}

/// The parts at hand, by binary name.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    found: BTreeMap<&'static str, Found>,
}

impl Parts {
    /// Finds or builds the parts that these need.
    ///
    /// # Errors
    /// When a part is neither found nor can be built; the message ends with what its build said.
    pub async fn of(users: &[Use], progress: &Progress) -> Result<Self> {
        Self::chosen(|part| users.contains(&part.of), progress).await
    }

    /// Finds or builds one part.
    ///
    /// # Errors
    /// As [`Parts::of`].
    pub async fn only(name: &str, progress: &Progress) -> Result<Self> {
        Self::chosen(|part| part.name == name, progress).await
    }

    async fn chosen(wanted: impl Fn(&Part) -> bool, progress: &Progress) -> Result<Self> {
        let places = Arc::new(Places::of_user()?);
        let mut looks = JoinSet::new();
        for (at, part) in PARTS.iter().enumerate().filter(|(_, part)| wanted(part)) {
            let places = Arc::clone(&places);
            looks.spawn(async move { part.at_hand(&places).await.map(|found| (at, part, found)) });
        }
        let mut looks = looks.join_all().await.into_iter().collect::<Result<Vec<_>>>()?;
        looks.sort_by_key(|(at, ..)| *at);

        let mut parts = Self::default();
        let mut builds = JoinSet::new();
        let at_once = Arc::new(Semaphore::new(build::parallel()));
        for (_, part, found) in looks {
            match found {
                Some(found) => parts.add(found),
                None => {
                    let turn = Arc::clone(&at_once).acquire_owned().await.context("the builds were called off")?;
                    let (places, progress) = (Arc::clone(&places), progress.clone());
                    builds.spawn(async move {
                        let _turn = turn;
                        part.make(&places, &progress).await
                    });
                }
            }
        }
        while let Some(found) = builds.join_next().await {
            parts.add(found.context("a part's build ended early")??);
        }
        Ok(parts)
    }

    fn add(&mut self, found: Vec<Found>) {
        self.found.extend(found.into_iter().map(|found| (found.binary, found)));
    }

    /// The file of a binary.
    ///
    /// # Errors
    /// When the binary is not among the parts that were asked for.
    pub fn path(&self, binary: &str) -> Result<&Path> {
        self.found
            .get(binary)
            .map(|found| found.path.as_path())
            .ok_or_else(|| anyhow!("no part has a binary {binary:?}"))
    }

    /// Every binary.
    pub fn iter(&self) -> impl Iterator<Item = &Found> {
        self.found.values()
    }

    /// `PATH` with the parts' folders in front, for programs that look their tools up themselves.
    ///
    /// # Errors
    /// When a folder's name has a colon.
    pub fn search_path(&self) -> Result<OsString> {
        let mut folders: Vec<PathBuf> = Vec::new();
        for folder in self.found.values().filter_map(|found| found.path.parent()) {
            if !folders.iter().any(|known| known == folder) {
                folders.push(folder.to_owned());
            }
        }
        folders.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        Ok(std::env::join_paths(folders)?)
    }
}

/// The version that a part's go.mod or Cargo.toml names.
pub(crate) fn pinned(name: &str) -> Result<&'static str> {
    PARTS
        .iter()
        .find(|part| part.name == name)
        .map(|part| part.version)
        .with_context(|| format!("there is no part {name:?}"))
}
