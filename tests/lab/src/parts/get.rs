//! The order in which a part is looked for and made.

use super::{
    Binary, Found, Part, build,
    cache::{self, Places},
    find, package,
};
use crate::progress::Progress;
use anyhow::{Context, Result, anyhow};
use std::path::Path;

impl Part {
    /// Its binaries, when they are here already. Needs neither Go nor Python.
    pub(super) async fn at_hand(&self, places: &Places) -> Result<Option<Vec<Found>>> {
        let mut found = Vec::new();
        for binary in self.binaries {
            match find::installed(binary, places).await {
                Some(hit) => found.push(hit),
                None => return self.cached(places).await.with_context(|| self.failure()),
            }
        }
        Ok(Some(found))
    }

    /// Makes it, or waits for another run that does.
    pub(super) async fn make(&self, places: &Places, progress: &Progress) -> Result<Vec<Found>> {
        let step = progress.step(format!("{} {}", self.name, self.version), self.tool());
        let _lock = cache::lock(&places.base(self), &step).await?;
        if let Some(found) = self.cached(places).await.with_context(|| self.failure())? {
            step.done("another run has built it");
            return Ok(found);
        }
        let unbuilt = match build::build(self, places, progress, &step).await {
            Ok(folder) => {
                step.done("built");
                return Ok(self.built_in(&folder, "built now"));
            }
            Err(error) => error,
        };
        match package::unpack(self, places, &step).await {
            Ok(Some(folder)) => {
                step.done(&format!("from its Python package: {}", briefly(&unbuilt)));
                self.packaged_in(&folder, "package").await.with_context(|| self.failure())
            }
            Ok(None) => {
                step.failed("does not build");
                Err(unbuilt.context(self.failure()))
            }
            Err(error) => {
                step.failed("neither builds nor comes from its Python package");
                let why = anyhow!("{unbuilt:#}\nIts Python package does not help either: {error:#}");
                Err(why.context(self.failure()))
            }
        }
    }

    async fn cached(&self, places: &Places) -> Result<Option<Vec<Found>>> {
        let folder = places.built(self)?;
        if cache::complete(self, &folder) {
            return Ok(Some(self.built_in(&folder, "cache")));
        }
        match places.packaged(self)?.filter(|folder| cache::complete(self, folder)) {
            Some(folder) => Ok(self.packaged_in(&folder, "cache").await),
            None => Ok(None),
        }
    }

    fn built_in(&self, folder: &Path, source: &'static str) -> Vec<Found> {
        let version = self.version.to_owned();
        let found = |binary: &Binary| Found {
            binary: binary.name,
            version: version.clone(),
            source,
            path: folder.join(binary.name),
        };
        self.binaries.iter().map(found).collect()
    }

    /// A package's version is its own, so the binaries are asked. `None`: one does not fit (any more).
    async fn packaged_in(&self, folder: &Path, source: &'static str) -> Option<Vec<Found>> {
        let mut found = Vec::new();
        for binary in self.binaries {
            let path = folder.join(binary.name);
            let version = find::fitting(binary, &path).await?.to_string();
            found.push(Found { binary: binary.name, version, source, path });
        }
        Some(found)
    }

    fn failure(&self) -> String {
        format!("cannot get {} {}", self.name, self.version)
    }
}

/// Its first sentence: what is to be done about it comes after.
fn briefly(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    let line = text.lines().next().unwrap_or_default();
    line.split_once(". ").map_or(line, |(sentence, _)| sentence).to_owned()
}
