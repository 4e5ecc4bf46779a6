//! The rows.

use super::{
    Scale,
    ends::{self, End, Tls},
    load::{self, Load},
    way::Way,
};
use crate::load::Latencies;
use anyhow::Result;
use clap::{ValueEnum, builder::PossibleValue};
use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    OneLink(OneLink),
    /// Many agents that come at once, twice.
    Storm,
    /// What one of them costs while nothing happens.
    IdleAgent,
    /// What a stream to one of them costs while nothing happens on it, and while it carries what it can.
    IdleStream,
    BusyStream,
}

/// A load over one link, and the way it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OneLink {
    name: &'static str,
    rtt: u64,
    load: Load,
}

const fn one(name: &'static str, rtt: u64, load: Load) -> Row {
    Row::OneLink(OneLink { name, rtt, load })
}

const ROWS: [Row; 14] = [
    one("rtt0-stream-1-up", 0, Load::Up(1)),
    one("rtt0-stream-1-down", 0, Load::Down(1)),
    one("rtt0-stream-16-up", 0, Load::Up(16)),
    one("rtt0-stream-16-down", 0, Load::Down(16)),
    one("rtt0-small-beside-bulk", 0, Load::Beside(8)),
    one("rtt60-stream-1-up", 60, Load::Up(1)),
    one("rtt60-stream-1-down", 60, Load::Down(1)),
    one("rtt60-stream-16-up", 60, Load::Up(16)),
    one("rtt60-stream-16-down", 60, Load::Down(16)),
    one("rtt60-small-beside-bulk", 60, Load::Beside(8)),
    Row::Storm,
    Row::IdleAgent,
    Row::IdleStream,
    Row::BusyStream,
];

/// What carries the streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    Direct,
    PipeOps,
}

impl Subject {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::PipeOps => "pipeops",
        }
    }
}

/// What a load did.
#[derive(Debug)]
pub(super) struct Measured {
    /// Received by whoever reads.
    pub(super) bytes: u64,
    pub(super) time: Duration,
    /// Of the small ones.
    pub(super) exchanges: Latencies,
    /// CPU time.
    pub(super) control_plane: Duration,
    pub(super) agent: Duration,
}

impl Row {
    /// In the order they run.
    pub(super) fn all() -> [Self; 14] {
        ROWS
    }

    /// As in `--only` and in the records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::OneLink(row) => row.name,
            Self::Storm => "storm-2000",
            Self::IdleAgent => "idle-agent",
            Self::IdleStream => "idle-stream",
            Self::BusyStream => "busy-stream",
        }
    }
}

impl OneLink {
    pub(super) fn name(self) -> &'static str {
        self.name
    }

    pub(super) fn round_trip(self) -> Duration {
        Duration::from_millis(self.rtt)
    }

    pub(super) fn title(self) -> String {
        let way = if self.rtt == 0 { "no delay".to_owned() } else { format!("{} ms of round trip", self.rtt) };
        match self.load {
            Load::Up(streams) => format!("{streams} streams from the agent, {way}"),
            Load::Down(streams) => format!("{streams} streams to the agent, {way}"),
            Load::Beside(streams) => format!("small exchanges on one stream beside {streams} in bulk, {way}"),
        }
    }

    pub(super) fn metrics(self) -> &'static [&'static str] {
        match self.load {
            Load::Up(_) | Load::Down(_) => &["MB/s", "cpu-s/GB"],
            Load::Beside(_) => &["MB/s", "added-p50-ms", "added-p99-ms", "cpu-s/GB"],
        }
    }

    pub(super) async fn measure(self, subject: Subject, scale: Scale) -> Result<Measured> {
        let (tls, taken) = (Tls::generate()?, Arc::new(AtomicU64::new(0)));
        let (far, counted) = (tls.clone(), Arc::clone(&taken));
        let agent = End::listen("agent", move |listener| ends::agent(subject, listener, far, counted)).await?;
        let way = Way::start(agent.address(), self.round_trip() / 2).await?;
        let address = way.address();
        let load = self.load;
        let measured = load::run(load, scale, &agent, &taken, move || ends::dial(subject, address, tls)).await;
        drop(way);
        measured
    }
}

impl ValueEnum for Row {
    fn value_variants<'a>() -> &'a [Self] {
        &ROWS
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}
