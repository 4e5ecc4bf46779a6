use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use protocol::ClusterId;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::record::TunnelRecord;
use crate::store::{Contents, Folder, Follower, StoreError};

/// All tunnels, in memory; read again when the folder has changed. Whoever changes one does so in the folder.
#[derive(Debug)]
pub struct Registry {
    folder: Folder<TunnelRecord>,
    known: RwLock<Known>,
    follower: Mutex<Follower>,
    changed: watch::Sender<()>,
    /// Of whoever reads a record, changes it and writes it, or reads all of them.
    turn: Mutex<()>,
}

/// What was written, and of what was removed the names.
pub type Changes = Vec<(String, Option<TunnelRecord>)>;

/// By name.
pub type Known = BTreeMap<String, Arc<TunnelRecord>>;

impl Registry {
    /// Without any in memory: [`Registry::refresh`] reads them.
    pub fn new(folder: Folder<TunnelRecord>) -> Self {
        Self {
            folder,
            known: RwLock::default(),
            follower: Mutex::default(),
            changed: watch::Sender::default(),
            turn: Mutex::default(),
        }
    }

    /// As known now.
    pub fn all(&self) -> Known {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn of(&self, cluster: &ClusterId) -> Vec<Arc<TunnelRecord>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.values().filter(|record| record.cluster == *cluster).cloned().collect()
    }

    /// Tells of each change of any of them.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Looks at the folder, and reads it if it may have changed.
    pub async fn refresh(self: &Arc<Self>) -> Result<(), StoreError> {
        self.blocking(Self::look).await
    }

    /// Does `work` with the folder, where it may block, and alone; what it says has changed is known at once.
    pub async fn change<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Folder<TunnelRecord>, &mut Changes) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.blocking(|this| {
            let _turn = this.turn.lock().unwrap_or_else(PoisonError::into_inner);
            let mut changes = Changes::new();
            let done = work(&this.folder, &mut changes);
            this.learn(changes);
            done
        })
        .await
    }

    /// Whatever else the folder holds is read with the next look.
    fn learn(&self, changes: Changes) {
        if changes.is_empty() {
            return;
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        for (name, record) in changes {
            match record {
                Some(record) => known.insert(name, Arc::new(record)),
                None => known.remove(&name),
            };
        }
        drop(known);
        self.changed.send_replace(());
    }

    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let this = Arc::clone(self);
        spawn_blocking(move || work(&this)).await.map_err(|died| self.folder.unusable(died.into()))?
    }

    fn look(&self) -> Result<(), StoreError> {
        const CONSEQUENCE: &str = "a tunnel that was open stays open until the control plane restarts";
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut follower = self.follower.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Contents { records, broken }) = follower.look(&self.folder, CONSEQUENCE)? else { return Ok(()) };
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let mut now = Known::new();
        for record in records {
            let same = known.get(&record.name).filter(|old| ***old == record).cloned();
            now.insert(record.name.clone(), same.unwrap_or_else(|| Arc::new(record)));
        }
        now.extend(broken.keys().filter_map(|name| Some((name.clone(), known.get(name)?.clone()))));
        if *known != now {
            *known = now;
            drop(known);
            self.changed.send_replace(());
        }
        Ok(())
    }

    /// As stored now. Blocks.
    pub fn stored(&self) -> Result<Contents<TunnelRecord>, StoreError> {
        self.folder.all()
    }

    /// As stored now. Blocks.
    pub fn get(&self, name: &str) -> Result<Option<TunnelRecord>, StoreError> {
        self.folder.get(name)
    }

    /// Blocks.
    pub fn put(&self, record: &TunnelRecord) -> Result<(), StoreError> {
        self.folder.put(record)
    }

    /// True if there was one. Blocks.
    pub fn remove(&self, name: &str) -> Result<bool, StoreError> {
        self.folder.remove(name)
    }
}
