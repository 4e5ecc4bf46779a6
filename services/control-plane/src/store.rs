//! Records on disk: one JSON file each, replaced atomically, so that the command line and a running server can share a
//! folder without a lock.

use std::fs;
use std::io::{self, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Serialize, de::DeserializeOwned};

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot use folder {path:?}")]
    Folder { path: PathBuf, source: io::Error },
    #[error("cannot write {path:?}")]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot read {path:?}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path:?} is not a valid record; it was left as it is")]
    Corrupt { path: PathBuf, source: serde_json::Error },
    #[error("{0:?} cannot be the name of a record")]
    Name(String),
}

/// Records of one type, each under a name.
#[derive(Debug)]
pub struct Folder<T> {
    path: PathBuf,
    record: PhantomData<fn() -> T>,
}

impl<T: Serialize + DeserializeOwned> Folder<T> {
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

    /// When a record was last added, replaced or removed.
    pub fn changed(&self) -> Result<SystemTime, StoreError> {
        fs::metadata(&self.path)
            .and_then(|meta| meta.modified())
            .map_err(|source| StoreError::Folder { path: self.path.clone(), source })
    }

    pub fn all(&self) -> Result<Vec<T>, StoreError> {
        let folder = |source| StoreError::Folder { path: self.path.clone(), source };
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(folder)? {
            let path = entry.map_err(folder)?.path();
            if path.extension().is_some_and(|extension| extension == "json")
                && let Some(record) = read(&path)?
            {
                records.push(record);
            }
        }
        Ok(records)
    }

    pub fn put(&self, name: &str, record: &T) -> Result<(), StoreError> {
        let path = self.file(name)?;
        let failed = |source| StoreError::Write { path: path.clone(), source };
        let text = serde_json::to_vec_pretty(record).map_err(|e| failed(e.into()))?;
        write_atomically(&path, &text).map_err(failed)
    }

    /// True if there was one.
    pub fn remove(&self, name: &str) -> Result<bool, StoreError> {
        let path = self.file(name)?;
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(StoreError::Write { path, source }),
        }
    }

    fn file(&self, name: &str) -> Result<PathBuf, StoreError> {
        let plain = !name.is_empty()
            && !name.starts_with('.')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if plain { Ok(self.path.join(format!("{name}.json"))) } else { Err(StoreError::Name(name.to_owned())) }
    }
}

/// None if it has just been removed.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|source| StoreError::Corrupt { path: path.to_path_buf(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoreError::Read { path: path.to_path_buf(), source }),
    }
}

/// The file has its old content or the new one, never a part; only its owner can read it.
pub fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let temporary = path.with_extension(format!("{:08x}.tmp", rand::random::<u32>()));
    let written = (|| {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        // The first error is the one to report.
        let _removed = fs::remove_file(&temporary);
    }
    written
}
