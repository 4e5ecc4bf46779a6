//! Where the state lies: objects of the cluster, or one file. Both keep the same objects by the same rules: a write names
//! the version that it was made from, and loses against any other since.

use std::fmt::Debug;

use bus::state::StateError;
use k8s_openapi::NamespaceResourceScope;
use kube::Resource;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::access::Access;
use crate::file::{OpenError, StateFile};
use crate::objects::Objects;
use crate::{Options, key};

/// How a look at the storage, or a write to it, failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StorageError {
    /// Somebody else wrote, created or deleted the object since it was read.
    #[error("the object was changed by somebody else")]
    Conflict,
    /// Not reached, no answer in time, refused.
    #[error("{0}")]
    Unavailable(String),
    /// What is there cannot be read; it was left alone.
    #[error("{0}")]
    Corrupt(String),
}

impl From<StorageError> for StateError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Corrupt(reason) => Self::Corrupt { reason },
            other => Self::Unavailable { reason: other.to_string() },
        }
    }
}

/// A kind of object that lives in a namespace.
pub(crate) trait Object:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
}

impl<K> Object for K where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

/// Why the storage cannot be used at all, however long one waits.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetupError {
    #[error(transparent)]
    Key(#[from] key::KeyError),
    #[error(transparent)]
    File(#[from] OpenError),
}

/// The one place where the state is.
#[derive(Debug)]
pub(crate) enum Storage {
    Cluster(Box<Objects>),
    File(StateFile),
}

impl Storage {
    /// The file when one is set, else the cluster's objects. Blocks.
    pub fn open(options: &Options) -> Result<Self, SetupError> {
        let state = &options.state;
        if let Some(path) = state.file() {
            let key = key::Key::of(state, path)?;
            let file = StateFile::open(path.to_path_buf(), key)?;
            tracing::info!(file = %path.display(), "keeping the agent's state in a file");
            return Ok(Self::File(file));
        }
        let namespace = state.namespace();
        tracing::info!(
            namespace,
            config_map = state.configmap_name,
            secret = state.secret_name,
            "keeping the agent's state"
        );
        let access = Access::new(options.kubernetes.clone(), namespace);
        Ok(Self::Cluster(Box::new(Objects::new(access, options.kubernetes.timeout.get()))))
    }

    /// The object of that name; none when there is none.
    pub async fn get<K: Object>(&self, name: &str) -> Result<Option<K>, StorageError> {
        match self {
            Self::Cluster(objects) => objects.get(name).await,
            Self::File(file) => file.get(name).await,
        }
    }

    /// Creates `object` when it was never stored; else replaces exactly the version that it was read as. Gives it as it
    /// is stored now.
    pub async fn save<K: Object>(&self, object: &K) -> Result<K, StorageError> {
        match self {
            Self::Cluster(objects) => objects.save(object).await,
            Self::File(file) => file.save(object).await,
        }
    }

    /// What an object is called where people look for it.
    pub fn place<K: Object>(&self, name: &str) -> String {
        match self {
            Self::Cluster(objects) => format!("{} {}/{name}", K::kind(&()), objects.namespace()),
            Self::File(file) => format!("{} in {:?}", K::kind(&()), file.path()),
        }
    }

    /// The name of the condition that says whether it can be reached.
    pub const fn condition(&self) -> &'static str {
        match self {
            Self::Cluster(_) => "kubernetes",
            Self::File(_) => "file",
        }
    }
}
