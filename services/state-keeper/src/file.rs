//! The state outside a cluster: one encrypted file, and one process that has it.

mod sealed;

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::coordination::v1::Lease;
use kube::{Resource as _, ResourceExt as _};
use runtime::files::write_atomically;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::key::Key;
use crate::storage::{Object, StorageError};

/// A state is a few kilobytes; what is larger is not one, and is not read into memory.
const LARGEST: u64 = 4 << 20;

/// Why the file cannot be had. Whether its content can be read is another question, and asked later.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("state file {path:?} is in use by another process: each agent needs a file of its own (state.file)")]
    InUse { path: PathBuf },
    #[error("cannot lock state file {path:?} by way of {lock:?}: its folder has to be there, and writable")]
    Lock { path: PathBuf, lock: PathBuf, source: io::Error },
}

/// The file, locked for as long as this exists.
#[derive(Debug)]
pub(crate) struct StateFile(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    key: Key,
    /// The file itself is replaced with each write, and a lock on it would go with it.
    _lock: File,
    /// Leases are not written: there is one process, and whoever holds one asks for it again after a restart.
    leases: Mutex<Content>,
    /// From reading the file to replacing it.
    writing: Mutex<()>,
}

/// What the file holds: objects as the cluster's would be, by their names here.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Content {
    /// Of the last write.
    version: u64,
    objects: BTreeMap<String, Value>,
}

impl StateFile {
    /// Takes the file, which need not be there yet. Blocks.
    pub fn open(path: PathBuf, key: Key) -> Result<Self, OpenError> {
        let lock = lock_path(&path);
        let failed = |source| OpenError::Lock { path: path.clone(), lock: lock.clone(), source };
        let file = open_private(&lock).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { path }),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let (leases, writing) = Default::default();
        Ok(Self(Arc::new(Inner { path, key, _lock: file, leases, writing })))
    }

    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The object of that kind; of leases the one of that name.
    pub async fn get<K: Object>(&self, name: &str) -> Result<Option<K>, StorageError> {
        let place = place::<K>(name);
        if is_lease::<K>() {
            return self.0.leases().get(&place).map_err(|e| self.0.damaged(&e));
        }
        self.blocking(move |file| file.read()?.get(&place).map_err(|e| file.damaged(&e))).await
    }

    /// As [`crate::storage::Storage::save`]. On disk when it returns.
    pub async fn save<K: Object>(&self, object: &K) -> Result<K, StorageError> {
        let (place, object) = (place::<K>(&object.name_any()), object.clone());
        if is_lease::<K>() {
            return self.0.leases().put(&place, object, |e| self.0.damaged(&e));
        }
        self.blocking(move |file| {
            let _writing = file.writing.lock().unwrap_or_else(PoisonError::into_inner);
            // Content that cannot be read is never written over.
            let mut content = file.read()?;
            let saved = content.put(&place, object, |e| file.damaged(&e))?;
            file.write(&content)?;
            Ok(saved)
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let inner = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || work(&inner)).await;
        done.unwrap_or_else(|_| Err(StorageError::Unavailable("the process is ending".into())))
    }
}

impl Inner {
    /// What was last written; nothing when there is no file.
    fn read(&self) -> Result<Content, StorageError> {
        let path = &self.path;
        let failed = |error: io::Error| StorageError::Unavailable(format!("cannot read state file {path:?}: {error}"));
        match fs::metadata(path) {
            Ok(found) if found.len() > LARGEST => return Err(self.damaged(&sealed::Unreadable::Foreign)),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Content::default()),
            Err(error) => return Err(failed(error)),
        }
        let bytes = fs::read(path).map_err(failed)?;
        let text = sealed::open(&self.key, &bytes).map_err(|e| self.damaged(&e))?;
        serde_json::from_slice(&text).map_err(|e| self.damaged(&Unexpected(e.to_string())))
    }

    fn write(&self, content: &Content) -> Result<(), StorageError> {
        let failed = |error: &dyn std::fmt::Display| {
            StorageError::Unavailable(format!("cannot write state file {:?}: {error}", self.path))
        };
        let text = serde_json::to_vec(content).map_err(|e| failed(&e))?;
        let bytes = sealed::seal(&self.key, &text).map_err(|e| failed(&e))?;
        write_atomically(&self.path, &bytes).map_err(|e| failed(&e))
    }

    fn damaged(&self, found: &dyn std::fmt::Display) -> StorageError {
        StorageError::Corrupt(format!(
            "state file {:?} cannot be read, and is left as it is: {found}; set the key that it was written with (state.key_file or \
             PIPEOPS_STATE_KEY) or restore the file from a copy, or move it away to begin as a new agent",
            self.path
        ))
    }

    fn leases(&self) -> MutexGuard<'_, Content> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The content was decrypted, and is not what this release writes.
#[derive(Debug, thiserror::Error)]
#[error("its content is none of this release ({0})")]
struct Unexpected(String);

impl Content {
    fn get<K: Object>(&self, place: &str) -> Result<Option<K>, Unexpected> {
        let object = self.objects.get(place).map(K::deserialize).transpose();
        object.map_err(|e| Unexpected(format!("{place}: {e}")))
    }

    fn put<K: Object>(
        &mut self,
        place: &str,
        mut object: K,
        damaged: impl Fn(Unexpected) -> StorageError,
    ) -> Result<K, StorageError> {
        let stored: Option<K> = self.get(place).map_err(&damaged)?;
        if stored.and_then(|stored| stored.resource_version()) != object.resource_version() {
            return Err(StorageError::Conflict);
        }
        self.version = self.version.saturating_add(1);
        object.meta_mut().resource_version = Some(self.version.to_string());
        let value = serde_json::to_value(&object).map_err(|e| damaged(Unexpected(e.to_string())))?;
        self.objects.insert(place.to_owned(), value);
        Ok(object)
    }
}

/// There is one object of each kind but leases, whatever a cluster would call it: so the names are no part of the identity.
fn place<K: Object>(name: &str) -> String {
    let kind = K::kind(&());
    if is_lease::<K>() { format!("{kind}/{name}") } else { kind.into_owned() }
}

fn is_lease<K: Object>() -> bool {
    K::kind(&()) == Lease::kind(&())
}

fn lock_path(path: &Path) -> PathBuf {
    let mut lock = path.as_os_str().to_owned();
    lock.push(".lock");
    lock.into()
}

fn open_private(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)
}

#[cfg(test)]
mod tests;
