//! Records on disk: one JSON file each, replaced atomically, so that the command line and a running server can share a
//! folder without a lock. Everything here blocks.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use runtime::error_text;
use runtime::files::{replace_atomically, sync_folder, write_atomically};
use serde::{Serialize, de::DeserializeOwned};

/// A folder changed this recently may change again within the same tick of its clock.
const CLOCK_TICK: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot use folder {path:?}")]
    Folder { path: PathBuf, source: io::Error },
    #[error("cannot write {path:?}")]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot read {path:?}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path:?} is damaged, and does not count until it is restored from a backup or removed")]
    Corrupt { path: PathBuf, source: serde_json::Error },
    #[error("{path:?} is a copy of the record {name:?} under another name, and does not count; remove it")]
    Misnamed { path: PathBuf, name: String },
    #[error("{path:?} is no key: restore it from a backup, or remove it, and then make new tokens for all agents")]
    Key { path: PathBuf },
    #[error("{0:?} cannot be the name of a record")]
    Name(String),
}

/// What is stored knows its name, which is also its file's.
pub trait Record: Serialize + DeserializeOwned {
    fn name(&self) -> &str;
}

/// Records of one type, each under its name.
#[derive(Debug)]
pub struct Folder<T> {
    path: PathBuf,
    record: PhantomData<fn() -> T>,
}

/// What a folder holds.
#[derive(Debug)]
pub struct Contents<T> {
    pub records: Vec<T>,
    /// Files that are none, by the name that their record would have. They stand in nobody's way.
    pub broken: HashMap<String, StoreError>,
}

impl<T: Record> Folder<T> {
    /// Creates the folder, readable by its owner alone.
    pub fn open(path: PathBuf) -> Result<Self, StoreError> {
        use std::os::unix::fs::DirBuilderExt as _;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(|source| StoreError::Folder { path: path.clone(), source })?;
        Ok(Self { path, record: PhantomData })
    }

    /// When a record was last added, replaced or removed. One that was written over in place does not show.
    pub fn changed(&self) -> Result<SystemTime, StoreError> {
        fs::metadata(&self.path).and_then(|meta| meta.modified()).map_err(|source| self.unusable(source))
    }

    /// An error is one of the folder; those of single files are part of what it holds.
    pub fn all(&self) -> Result<Contents<T>, StoreError> {
        let mut contents = Contents { records: Vec::new(), broken: HashMap::new() };
        for entry in fs::read_dir(&self.path).map_err(|source| self.unusable(source))? {
            let path = entry.map_err(|source| self.unusable(source))?.path();
            let Some(name) = path.file_stem().filter(|_| path.extension().is_some_and(|e| e == "json")) else {
                continue;
            };
            match read(&path) {
                Ok(record) => contents.records.extend(record),
                Err(error) => drop(contents.broken.insert(name.to_string_lossy().into_owned(), error)),
            }
        }
        Ok(contents)
    }

    pub fn get(&self, name: &str) -> Result<Option<T>, StoreError> {
        read(&self.file(name)?)
    }

    /// On disk, folder entry included, when it returns.
    pub fn put(&self, record: &T) -> Result<(), StoreError> {
        let path = self.file(record.name())?;
        let failed = |source| StoreError::Write { path: path.clone(), source };
        let text = serde_json::to_vec_pretty(record).map_err(|e| failed(e.into()))?;
        write_atomically(&path, &text).map_err(failed)
    }

    /// The same for one that is there: false when it is not, or is removed meanwhile.
    pub fn replace(&self, record: &T) -> Result<bool, StoreError> {
        let path = self.file(record.name())?;
        let failed = |source| StoreError::Write { path: path.clone(), source };
        let text = serde_json::to_vec_pretty(record).map_err(|e| failed(e.into()))?;
        replace_atomically(&path, &text).map_err(failed)
    }

    /// True if there was one.
    pub fn remove(&self, name: &str) -> Result<bool, StoreError> {
        let path = self.file(name)?;
        match fs::remove_file(&path).and_then(|()| sync_folder(&self.path)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(StoreError::Write { path, source }),
        }
    }

    pub fn unusable(&self, source: io::Error) -> StoreError {
        StoreError::Folder { path: self.path.clone(), source }
    }

    fn file(&self, name: &str) -> Result<PathBuf, StoreError> {
        let plain = !name.is_empty()
            && !name.starts_with('.')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if plain { Ok(self.path.join(format!("{name}.json"))) } else { Err(StoreError::Name(name.to_owned())) }
    }
}

/// Reads a folder again when it has changed.
#[derive(Debug, Default)]
pub struct Follower {
    /// The folder's time of change when it was read, if that is sure to change with the next record.
    as_of: Option<SystemTime>,
    complaints: Complaints,
}

impl Follower {
    /// None: nothing has changed since the last look. `consequence` is that of a file that does not count.
    pub fn look<T: Record>(
        &mut self,
        folder: &Folder<T>,
        consequence: &'static str,
    ) -> Result<Option<Contents<T>>, StoreError> {
        let changed = folder.changed()?;
        if self.as_of == Some(changed) {
            return Ok(None);
        }
        let settled = changed.elapsed().is_ok_and(|age| age > CLOCK_TICK);
        let contents = folder.all()?;
        self.complaints.tell(&contents.broken, consequence);
        // A file that is mended in place leaves its folder's time alone.
        self.as_of = (settled && contents.broken.is_empty()).then_some(changed);
        Ok(Some(contents))
    }
}

/// None if there is no such file, or no longer.
fn read<T: Record>(path: &Path) -> Result<Option<T>, StoreError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StoreError::Read { path: path.to_path_buf(), source }),
    };
    let record: T =
        serde_json::from_slice(&text).map_err(|source| StoreError::Corrupt { path: path.to_path_buf(), source })?;
    // Otherwise a copy that somebody made would outlive the original's removal.
    if path.file_stem().is_some_and(|stem| stem == record.name()) {
        Ok(Some(record))
    } else {
        Err(StoreError::Misnamed { path: path.to_path_buf(), name: record.name().to_owned() })
    }
}

/// Says once of each broken file that it is, and again when it is broken in another way.
#[derive(Debug, Default)]
pub struct Complaints(HashMap<String, String>);

impl Complaints {
    /// `consequence`: what it means that a file of this folder does not count.
    pub fn tell(&mut self, broken: &HashMap<String, StoreError>, consequence: &'static str) {
        self.0.retain(|name, _| broken.contains_key(name));
        for (name, error) in broken {
            let said = error_text(error);
            if self.0.get(name) != Some(&said) {
                tracing::error!(error = said, consequence, "a file of the data folder does not count");
                self.0.insert(name.clone(), said);
            }
        }
    }
}
