//! Instruments over plain atomics: counting costs an addition, and the value is read when somebody scrapes.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;

/// Shows the atomics of `T` as metrics. A counter's name gets `_total` in `/metrics`.
#[derive(Debug)]
pub struct Instruments<'a, T> {
    meter: &'a Meter,
    values: Arc<T>,
}

impl<'a, T: Send + Sync + 'static> Instruments<'a, T> {
    #[must_use]
    pub fn of(meter: &'a Meter, values: &Arc<T>) -> Self {
        Self { meter, values: Arc::clone(values) }
    }

    #[must_use]
    pub fn gauge(self, name: &'static str, description: &'static str, value: fn(&T) -> &AtomicI64) -> Self {
        let values = Arc::clone(&self.values);
        let _gauge = self
            .meter
            .i64_observable_gauge(name)
            .with_description(description)
            .with_callback(move |o| o.observe(value(&values).load(Relaxed), &[]))
            .build();
        self
    }

    #[must_use]
    pub fn counter(self, name: &'static str, description: &'static str, value: fn(&T) -> &AtomicU64) -> Self {
        let values = Arc::clone(&self.values);
        let _counter = self
            .meter
            .u64_observable_counter(name)
            .with_description(description)
            .with_callback(move |o| o.observe(value(&values).load(Relaxed), &[]))
            .build();
        self
    }

    /// One counter per value of `label`, in the order of `values`.
    #[must_use]
    pub fn counters<const N: usize>(
        self,
        name: &'static str,
        description: &'static str,
        label: (&'static str, [&'static str; N]),
        counts: fn(&T) -> &[AtomicU64; N],
    ) -> Self {
        let values = Arc::clone(&self.values);
        let _counters = self
            .meter
            .u64_observable_counter(name)
            .with_description(description)
            .with_callback(move |o| {
                let (key, names) = label;
                for (name, count) in names.into_iter().zip(counts(&values)) {
                    o.observe(count.load(Relaxed), &[KeyValue::new(key, name)]);
                }
            })
            .build();
        self
    }

    /// The values, to be counted in.
    #[must_use]
    pub fn registered(self) -> Arc<T> {
        self.values
    }
}

/// Counts of HTTP answers by class of their status: the values of a label `class`.
pub const STATUS_CLASSES: (&str, [&str; 5]) = ("class", ["1xx", "2xx", "3xx", "4xx", "5xx"]);

/// Adds an answer to its class.
pub fn count_status(classes: &[AtomicU64; 5], status: u16) {
    if let Some(count) = classes.get(usize::from(status / 100).saturating_sub(1)) {
        count.fetch_add(1, Relaxed);
    }
}
