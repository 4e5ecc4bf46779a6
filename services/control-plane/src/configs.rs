//! What clusters are wished to be configured as: made by the command line, pushed over each cluster's links.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use protocol::ClusterConfig;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use crate::store::{Contents, Folder, Follower, Record, StoreError};

/// A cluster's configuration as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConfigRecord {
    /// By name; it need not have registered yet.
    pub cluster: String,
    pub config: ClusterConfig,
}

impl Record for ConfigRecord {
    fn name(&self) -> &str {
        &self.cluster
    }
}

/// All of them, in memory; read again when the folder has changed.
#[derive(Debug)]
pub struct Configs {
    folder: Folder<ConfigRecord>,
    /// None: there is one, and it cannot be read.
    known: RwLock<HashMap<String, Option<Arc<ClusterConfig>>>>,
    follower: Mutex<Follower>,
    changed: watch::Sender<()>,
}

impl Configs {
    /// Without any in memory: [`Configs::refresh`] reads them.
    pub fn new(folder: Folder<ConfigRecord>) -> Self {
        Self { folder, known: RwLock::default(), follower: Mutex::default(), changed: watch::Sender::default() }
    }

    /// As known now; an empty one where there is no record, or no longer. None: it is not known, and what the cluster was told
    /// before counts.
    pub fn of(&self, cluster: &str) -> Option<Arc<ClusterConfig>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(cluster).map_or_else(|| Some(Arc::default()), Clone::clone)
    }

    /// Tells of each change of any of them.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Looks at the folder, and reads it if it may have changed.
    pub async fn refresh(self: &Arc<Self>) -> Result<(), StoreError> {
        let this = Arc::clone(self);
        spawn_blocking(move || this.look()).await.map_err(|died| self.folder.unusable(died.into()))?
    }

    fn look(&self) -> Result<(), StoreError> {
        const CONSEQUENCE: &str = "the cluster keeps the configuration that it was given last";
        let mut follower = self.follower.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Contents { records, broken }) = follower.look(&self.folder, CONSEQUENCE)? else { return Ok(()) };
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let mut now: HashMap<_, _> =
            records.into_iter().map(|record| (record.cluster, Some(Arc::new(record.config)))).collect();
        now.extend(broken.into_keys().map(|name| {
            let kept = known.get(&name).cloned().flatten();
            (name, kept)
        }));
        if *known != now {
            *known = now;
            drop(known);
            self.changed.send_replace(());
        }
        Ok(())
    }

    /// As stored now. Blocks.
    pub fn get(&self, cluster: &str) -> Result<Option<ConfigRecord>, StoreError> {
        self.folder.get(cluster)
    }

    /// Stores it under the next revision, which it gives. Blocks.
    pub fn set(&self, cluster: &str, config: ClusterConfig) -> Result<u64, StoreError> {
        let before = self.folder.get(cluster)?.map_or(0, |record| record.config.revision);
        let revision = before.saturating_add(1);
        let config = ClusterConfig { revision, ..config };
        self.folder.put(&ConfigRecord { cluster: cluster.to_owned(), config })?;
        Ok(revision)
    }
}
