//! The streams of a link.

use std::{collections::HashMap, sync::Arc};

use crate::{config::Role, stream::state::StreamState};

#[derive(Debug, Default)]
pub(crate) struct Table {
    streams: HashMap<u32, Arc<StreamState>>,
    /// How many streams this end has opened.
    opened: u32,
    /// The peer takes no new streams.
    pub(crate) going_away: bool,
    /// The link has ended.
    pub(crate) ended: bool,
}

impl Table {
    pub(crate) fn get(&self, id: u32) -> Option<&Arc<StreamState>> {
        self.streams.get(&id)
    }

    pub(crate) fn insert(&mut self, stream: Arc<StreamState>) {
        self.streams.insert(stream.id, stream);
    }

    pub(crate) fn remove(&mut self, id: u32) {
        self.streams.remove(&id);
    }

    pub(crate) fn len(&self) -> usize {
        self.streams.len()
    }

    pub(crate) fn streams(&self) -> impl Iterator<Item = &Arc<StreamState>> {
        self.streams.values()
    }

    /// The id of the next stream that this end opens: odd ones are the agent's, even ones the control plane's. None when
    /// they are used up.
    pub(crate) fn next_id(&mut self, role: Role) -> Option<u32> {
        let first = match role {
            Role::Agent => 1,
            Role::ControlPlane => 2,
        };
        let id = self.opened.checked_mul(2)?.checked_add(first)?;
        self.opened += 1;
        Some(id)
    }

    /// From now on there are no more. Those that there are stay until their users drop them.
    pub(crate) fn end(&mut self) -> Vec<Arc<StreamState>> {
        self.ended = true;
        self.streams.values().cloned().collect()
    }
}
