//! [`Stats`](crate::Stats) of a process's links for whoever scrapes, over all links that were and are.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use opentelemetry::{KeyValue, metrics::Meter};

use crate::{
    link::Link,
    state::{Shared, lock},
};

/// The metrics of all links that it is told of. Keeps no link alive.
#[derive(Clone, Debug)]
pub struct LinkMetrics(Arc<Mutex<Links>>);

#[derive(Debug, Default)]
struct Links {
    live: Vec<Arc<Shared>>,
    /// Of links that have ended.
    ended: Totals,
    /// How many have, by [`Closed::kind`](crate::Closed::kind).
    reasons: BTreeMap<&'static str, u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    streams: u64,
    refused: u64,
    evicted: u64,
    bytes_in: u64,
    bytes_out: u64,
    messages_in: u64,
    messages_out: u64,
    links: u64,
    rtt_micros: u64,
    unread: u64,
}

impl LinkMetrics {
    /// Registers `<prefix>_link_streams`, `_link_streams_refused_total`, `_link_streams_evicted_total`,
    /// `_link_bytes_total{direction}`, `_link_ends_total{reason}` by [`Closed::kind`](crate::Closed::kind),
    /// `_link_round_trip_seconds` (the longest of the last ones) and `_link_unread_bytes` (of the fullest
    /// [`Unread`](crate::Unread); all links of a process share one).
    #[must_use]
    pub fn register(meter: &Meter, prefix: &str) -> Self {
        let metrics = Self(Arc::default());
        metrics.gauge(meter, format!("{prefix}_link_streams"), "Streams open on the link", |totals| totals.streams);
        let links = Arc::clone(&metrics.0);
        let _round_trip = meter
            .f64_observable_gauge(format!("{prefix}_link_round_trip_seconds"))
            .with_description("Round trip of the last answered ping, the longest of all links")
            .with_callback(move |observer| {
                observer.observe(Duration::from_micros(lock(&links).totals().rtt_micros).as_secs_f64(), &[]);
            })
            .build();
        metrics.gauge(meter, format!("{prefix}_link_unread_bytes"), "Received on streams and not yet read", |totals| {
            totals.unread
        });
        metrics.counter(
            meter,
            format!("{prefix}_link_streams_refused"),
            "Streams of the peer that were reset at once because of the cap",
            |totals| totals.refused,
        );
        metrics.counter(
            meter,
            format!("{prefix}_link_streams_evicted"),
            "Streams that were reset because what all leave unread was above the limit",
            |totals| totals.evicted,
        );
        let links = Arc::clone(&metrics.0);
        let _bytes = meter
            .u64_observable_counter(format!("{prefix}_link_bytes"))
            .with_description("Payload bytes of the link's WebSocket messages")
            .with_callback(move |observer| {
                let totals = lock(&links).totals();
                observer.observe(totals.bytes_in, &[KeyValue::new("direction", "in")]);
                observer.observe(totals.bytes_out, &[KeyValue::new("direction", "out")]);
            })
            .build();
        let links = Arc::clone(&metrics.0);
        let _ends = meter
            .u64_observable_counter(format!("{prefix}_link_ends"))
            .with_description("Links that have ended, by why")
            .with_callback(move |observer| {
                let mut links = lock(&links);
                links.settle();
                for (reason, count) in &links.reasons {
                    observer.observe(*count, &[KeyValue::new("reason", *reason)]);
                }
            })
            .build();
        metrics
    }

    /// Shows them under the names and labels of the existing agent too: `<prefix>_websocket_frames_sent_total`,
    /// `_frames_received_total`, `_bytes_sent_total`, `_bytes_received_total`, each with the only `direction` that it has,
    /// and `_active_connections`.
    pub fn register_websocket(&self, meter: &Meter, prefix: &str) {
        type Row = (&'static str, &'static str, &'static str, fn(&Totals) -> u64);
        let counters: [Row; 4] = [
            ("frames_sent", "WebSocket messages sent", "out", |totals| totals.messages_out),
            ("frames_received", "WebSocket messages received", "in", |totals| totals.messages_in),
            ("bytes_sent", "Payload bytes of WebSocket messages sent", "out", |totals| totals.bytes_out),
            ("bytes_received", "Payload bytes of WebSocket messages received", "in", |totals| totals.bytes_in),
        ];
        for (what, description, direction, value) in counters {
            let links = Arc::clone(&self.0);
            let label = [KeyValue::new("direction", direction)];
            let _counter = meter
                .u64_observable_counter(format!("{prefix}_websocket_{what}"))
                .with_description(description)
                .with_callback(move |observer| observer.observe(value(&lock(&links).totals()), &label))
                .build();
        }
        let name = format!("{prefix}_websocket_active_connections");
        self.gauge(meter, name, "Links that are up", |totals| totals.links);
    }

    /// From now on `link` counts.
    pub fn watch(&self, link: &Link) {
        let mut links = lock(&self.0);
        links.settle();
        links.live.push(Arc::clone(&link.shared));
    }

    fn gauge(&self, meter: &Meter, name: String, description: &'static str, value: fn(&Totals) -> u64) {
        let links = Arc::clone(&self.0);
        let _registered = meter
            .u64_observable_gauge(name)
            .with_description(description)
            .with_callback(move |observer| observer.observe(value(&lock(&links).totals()), &[]))
            .build();
    }

    fn counter(&self, meter: &Meter, name: String, description: &'static str, value: fn(&Totals) -> u64) {
        let links = Arc::clone(&self.0);
        let _registered = meter
            .u64_observable_counter(name)
            .with_description(description)
            .with_callback(move |observer| observer.observe(value(&lock(&links).totals()), &[]))
            .build();
    }
}

impl Links {
    /// Takes over the counts of links that have ended.
    fn settle(&mut self) {
        let ended = &mut self.ended;
        self.live.retain(|link| match link.why_closed() {
            Some(why) if link.counters.open_streams.load(Ordering::Relaxed) == 0 => {
                ended.add(link);
                *self.reasons.entry(why.kind()).or_default() += 1;
                false
            }
            _ => true,
        });
        (ended.streams, ended.rtt_micros, ended.unread, ended.links) = (0, 0, 0, 0);
    }

    fn totals(&mut self) -> Totals {
        self.settle();
        let mut totals = self.ended;
        for link in &self.live {
            totals.add(link);
        }
        totals
    }
}

impl Totals {
    fn add(&mut self, link: &Shared) {
        let stats = link.counters.read();
        let rtt = stats.rtt.map_or(0, |rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX));
        self.streams += u64::try_from(stats.open_streams).unwrap_or(u64::MAX);
        self.refused += stats.refused;
        self.evicted += stats.evicted;
        self.bytes_in += stats.bytes_in;
        self.bytes_out += stats.bytes_out;
        self.messages_in += stats.messages_in;
        self.messages_out += stats.messages_out;
        self.links += 1;
        self.rtt_micros = self.rtt_micros.max(rtt);
        self.unread = self.unread.max(u64::try_from(link.unread.bytes()).unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        closed::Closed,
        config::{Config, Role},
    };

    #[test]
    fn what_an_ended_link_has_carried_still_counts() {
        let link = || {
            let shared = Arc::new(Shared::new(Role::Agent, &Config::default()));
            shared.counters.message_in(10);
            shared.counters.open_streams.store(1, Ordering::Relaxed);
            shared
        };
        let (old, new) = (link(), link());
        let mut links = Links { live: vec![old.clone(), new], ..Links::default() };
        let now = links.totals();
        assert_eq!((now.streams, now.bytes_in), (2, 20));
        old.counters.open_streams.store(0, Ordering::Relaxed);
        old.finish(Closed::Dropped);
        for _ in 0..2 {
            let now = links.totals();
            assert_eq!((now.streams, now.bytes_in, links.live.len()), (1, 20, 1));
            assert_eq!(links.reasons, BTreeMap::from([("dropped", 1)]));
        }
    }
}
