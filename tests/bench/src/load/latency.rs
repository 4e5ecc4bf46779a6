//! Latencies and their quantiles.

use std::time::Duration;

/// Every latency of a load, to the microsecond.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latencies(Vec<u32>);

impl Latencies {
    pub(crate) fn add(&mut self, latency: Duration) {
        self.0.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
    }

    pub(crate) fn merge(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    /// Those below which the given parts (0 to 1) of all are, in milliseconds; `None` without any.
    pub(crate) fn quantiles_ms<const N: usize>(&self, parts: [f64; N]) -> Option<[f64; N]> {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let last = sorted.len().checked_sub(1)?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the last index")]
        let at = |part: f64| sorted.get((last as f64 * part).round() as usize).copied().unwrap_or_default();
        Some(parts.map(|part| f64::from(at(part)) / 1000.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_sorted_values() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantiles_ms([0.5]), None);
        for milliseconds in (0..=100).rev() {
            latencies.add(Duration::from_millis(milliseconds));
        }
        assert_eq!(latencies.quantiles_ms([0.0, 0.5, 0.99, 1.0]), Some([0.0, 50.0, 99.0, 100.0]));
    }
}
