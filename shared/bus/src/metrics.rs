//! [`Stats`] for whoever scrapes: read then, and counted anyway.

use std::sync::Arc;

use opentelemetry::metrics::Meter;

use crate::{Stats, ledger::Ledger};

type Row = (&'static str, &'static str, fn(&Stats) -> u64);

const GAUGES: &[Row] = &[
    ("pipeops_agent_bus_streams", "Byte streams open on the bus", |stats| count(stats.streams_open)),
    ("pipeops_agent_bus_buffered_bytes", "Bytes received by streams and not yet read", |stats| stats.buffered_bytes),
    ("pipeops_agent_bus_window_bytes", "Bytes that peers may have in flight or buffered here", |stats| {
        stats.window_bytes
    }),
    ("pipeops_agent_bus_window_limit_bytes", "The most that the window bytes may become", |stats| stats.window_limit),
];

/// Their names get `_total` in `/metrics`.
const COUNTERS: &[Row] = &[
    ("pipeops_agent_bus_streams_opened", "Streams opened from here and accepted", |stats| stats.opened),
    ("pipeops_agent_bus_streams_accepted", "Streams accepted here", |stats| stats.accepted),
    ("pipeops_agent_bus_streams_refused", "Opens that were refused, timed out or found nobody", |stats| stats.refused),
    ("pipeops_agent_bus_resets", "Streams that ended in a reset", |stats| stats.resets),
    ("pipeops_agent_bus_slow_consumer_events", "Times messages were lost because they were not taken", |stats| {
        stats.slow_consumer_events
    }),
    ("pipeops_agent_bus_disconnects", "Bus connections lost", |stats| stats.disconnects),
    ("pipeops_agent_bus_bad_frames", "Stream frames that could not be read", |stats| stats.bad_frames),
];

pub(crate) fn register(ledger: &Arc<Ledger>, meter: &Meter) {
    for (name, description, value) in GAUGES {
        let ledger = Arc::clone(ledger);
        let _gauge = meter
            .u64_observable_gauge(*name)
            .with_description(*description)
            .with_callback(move |observer| observer.observe(value(&ledger.stats()), &[]))
            .build();
    }
    for (name, description, value) in COUNTERS {
        let ledger = Arc::clone(ledger);
        let _counter = meter
            .u64_observable_counter(*name)
            .with_description(*description)
            .with_callback(move |observer| observer.observe(value(&ledger.stats()), &[]))
            .build();
    }
}

fn count(streams: usize) -> u64 {
    u64::try_from(streams).unwrap_or(u64::MAX)
}
