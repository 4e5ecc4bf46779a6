use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mux::Budget;
use protocol::Status;
use tokio::sync::Notify;

use super::exchange::{Broken, Exchange, Given, Kind, Said};
use crate::metrics::Metrics;

/// The exchanges of one link, by id.
#[derive(Debug)]
pub struct Table {
    state: Mutex<State>,
    /// Exchanges of which the agent has to hear, or the end of the link.
    news: Notify,
    most: usize,
    unread: usize,
    budget: Arc<Budget>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct State {
    /// Those that somebody waits for, or reads.
    open: HashMap<Box<str>, Arc<Exchange>>,
    /// Of those that were open, so that there are never more: the agent is to be told that nobody waits for them.
    cancelled: VecDeque<(Box<str>, Kind)>,
    ended: bool,
}

impl From<NoPlace> for Box<Status> {
    fn from(why: NoPlace) -> Self {
        Self::new(Status::unavailable(why.to_string()))
    }
}

/// Why there is no place for an exchange.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub enum NoPlace {
    #[error("the link to the cluster has its maximum of {0} requests under way (links.max_streams); try again soon")]
    Full(usize),
    #[error("the link to the cluster was lost; try again soon")]
    Ended,
}

impl Table {
    /// For `most` exchanges, of each of which `unread` bytes may wait for its reader, and of all `budget`.
    pub fn new(most: usize, unread: usize, budget: &Arc<Budget>, metrics: &Arc<Metrics>) -> Self {
        let (budget, metrics) = (Arc::clone(budget), Arc::clone(metrics));
        Self { state: Mutex::default(), news: Notify::new(), most, unread, budget, metrics }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn begin(&self, kind: Kind) -> Result<Arc<Exchange>, NoPlace> {
        let mut state = self.state();
        if state.ended {
            return Err(NoPlace::Ended);
        }
        if state.open.len() + state.cancelled.len() >= self.most {
            return Err(NoPlace::Full(self.most));
        }
        // So that no agent can guess what another exchange is called, nor one meet what is left of an earlier.
        let exchange = Exchange::new(format!("{:032x}", rand::random::<u128>()).into(), kind);
        state.open.insert(exchange.id.clone(), Arc::clone(&exchange));
        Ok(exchange)
    }

    /// Leaves `said` to whoever waits for it. False: nobody does.
    pub fn give(&self, id: &str, said: Said) -> bool {
        let Some(exchange) = self.state().open.get(id).cloned() else { return false };
        let given = exchange.give(said, self.unread, &self.budget);
        let lost = match given {
            Given::Cut { .. } => Some(&self.metrics.unread_answers_cut),
            Given::Dropped => Some(&self.metrics.dropped_datagrams),
            Given::Taken | Given::Over { .. } | Given::Late => None,
        };
        if let Some(count) = lost {
            count.fetch_add(1, Relaxed);
        }
        if let Given::Over { cancel: true } | Given::Cut { cancel: true } = given {
            self.cancel(&exchange);
        }
        given != Given::Late
    }

    /// What the exchange of that id carries, if there is one.
    pub fn kind(&self, id: &str) -> Option<Kind> {
        self.state().open.get(id).map(|exchange| exchange.kind)
    }

    /// Nobody waits for it any more, and the agent says no more of it.
    pub fn forget(&self, exchange: &Exchange) {
        self.state().open.remove(&exchange.id);
    }

    /// The agent is to say no more of it. The second time nothing happens.
    pub fn cancel(&self, exchange: &Exchange) {
        let mut state = self.state();
        if state.open.remove(&exchange.id).is_some() && !state.ended {
            state.cancelled.push_back((exchange.id.clone(), exchange.kind));
            self.news.notify_one();
        }
    }

    /// The next exchange of which the agent has to hear that nobody waits for it; none once the link has ended.
    pub async fn cancelled(&self) -> Option<(Box<str>, Kind)> {
        loop {
            {
                let mut state = self.state();
                if state.ended {
                    return None;
                }
                if let Some(next) = state.cancelled.pop_front() {
                    return Some(next);
                }
            }
            self.news.notified().await;
        }
    }

    pub fn is_idle(&self) -> bool {
        let state = self.state();
        state.open.is_empty() && state.cancelled.is_empty()
    }

    /// Breaks all there are; there will be no more.
    pub fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        state.cancelled.clear();
        let open = std::mem::take(&mut state.open);
        drop(state);
        self.news.notify_one();
        for exchange in open.values() {
            exchange.give(Said::Broken(Broken::LinkLost), self.unread, &self.budget);
        }
    }
}
