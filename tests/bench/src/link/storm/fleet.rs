//! All agents, in a thread of their own.

use super::agent::{Agent, Far};
use crate::link::ends::Thread;
use anyhow::Result;
use protocol::{AgentId, Secret};
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
};
use tokio::task::JoinSet;

/// They end with it.
pub(super) struct Fleet {
    seen: Arc<Seen>,
    _thread: Thread,
}

/// What all agents have seen so far.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// One more with each life of the control plane.
    round: AtomicU64,
    agents: Vec<SeenByOne>,
    /// Links that ended without the control plane having ended.
    lost: AtomicUsize,
    last_failure: Mutex<String>,
}

/// In the round in which it registered last.
#[derive(Debug, Default)]
pub(super) struct SeenByOne {
    /// 0: it has not.
    round: AtomicU64,
    sent: AtomicUsize,
    acknowledged: AtomicUsize,
}

impl Fleet {
    /// Starts an agent for each cluster and its token, all at once.
    pub(super) async fn start(far: Far, tokens: Vec<(String, Secret)>) -> Result<Self> {
        let agents = tokens.iter().map(|_| SeenByOne::default()).collect();
        let seen = Arc::new(Seen { round: AtomicU64::new(1), agents, ..Seen::default() });
        let far = Arc::new(far);
        let agents = tokens.into_iter().enumerate().map(|(number, (cluster, token))| {
            let id = AgentId::new(format!("{cluster}-agent"))?;
            Ok(Agent { far: Arc::clone(&far), seen: Arc::clone(&seen), number, id, cluster, token, cluster_id: None })
        });
        let agents = agents.collect::<Result<Vec<_>>>()?;
        let work = async move || {
            let mut running: JoinSet<()> = agents.into_iter().map(Agent::run).collect();
            while running.join_next().await.is_some() {}
        };
        Ok(Self { seen, _thread: Thread::start("agents", work).await? })
    }

    /// The control plane's life is over: who registers from now on has come back.
    pub(super) fn begin_round(&self) {
        self.seen.round.fetch_add(1, SeqCst);
    }

    /// How many have registered in this round, of how many.
    pub(super) fn there(&self) -> (usize, usize) {
        (self.of_this_round().count(), self.seen.agents.len())
    }

    /// Heartbeats of this round that were not acknowledged so far, of how many.
    pub(super) fn heartbeats(&self) -> (usize, usize) {
        self.of_this_round().fold((0, 0), |(unacknowledged, all), agent| {
            // In this order: an acknowledgement that comes meanwhile is no debt.
            let acknowledged = agent.acknowledged.load(SeqCst);
            let sent = agent.sent.load(SeqCst);
            (unacknowledged + sent.saturating_sub(acknowledged), all + sent)
        })
    }

    pub(super) fn lost(&self) -> usize {
        self.seen.lost.load(SeqCst)
    }

    pub(super) fn last_failure(&self) -> String {
        self.seen.last_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn of_this_round(&self) -> impl Iterator<Item = &SeenByOne> {
        let round = self.seen.round.load(SeqCst);
        self.seen.agents.iter().filter(move |agent| agent.round.load(SeqCst) == round)
    }
}

impl Seen {
    /// Gives the round.
    pub(super) fn registered(&self, number: usize) -> u64 {
        let round = self.round.load(SeqCst);
        if let Some(agent) = self.agents.get(number)
            && agent.round.swap(round, SeqCst) != round
        {
            agent.sent.store(0, SeqCst);
            agent.acknowledged.store(0, SeqCst);
        }
        round
    }

    pub(super) fn sent(&self, number: usize) {
        if let Some(agent) = self.agents.get(number) {
            agent.sent.fetch_add(1, SeqCst);
        }
    }

    pub(super) fn acknowledged(&self, number: usize) {
        if let Some(agent) = self.agents.get(number) {
            agent.acknowledged.fetch_add(1, SeqCst);
        }
    }

    /// A link that was registered in `round`, or in none, has ended.
    pub(super) fn failed(&self, round: Option<u64>, error: &anyhow::Error) {
        if round == Some(self.round.load(SeqCst)) {
            self.lost.fetch_add(1, SeqCst);
        }
        *self.last_failure.lock().unwrap_or_else(PoisonError::into_inner) = format!("{error:#}");
    }
}
