//! What a process says and shows of what it holds.

use anyhow::{Context, Result};
use lab::{Health, Process};
use std::{collections::BTreeMap, time::Duration};

/// A look at a process.
#[derive(Clone, Debug)]
pub struct Look {
    pub name: String,
    /// Resident memory in bytes.
    pub rss: u64,
    pub fds: usize,
    /// Everything it publishes; labels are part of the name. Empty for a program that is not ours.
    pub metrics: BTreeMap<String, f64>,
}

impl Look {
    /// # Errors
    /// When the process does not run or does not answer.
    pub async fn at(process: &Process) -> Result<Self> {
        let metrics = match &process.spec().health {
            Health::Http(url) if url.ends_with("/ready") => scrape(&url.replace("/ready", "/metrics")).await?,
            _ => BTreeMap::new(),
        };
        Ok(Self { name: process.name().to_owned(), rss: process.rss()?, fds: process.fds()?, metrics })
    }

    /// The sum of a metric over its labels.
    #[must_use]
    pub fn metric(&self, name: &str) -> f64 {
        let of = |key: &str| key.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'));
        self.metrics.iter().filter(|(key, _)| of(key)).map(|(_, value)| value).sum()
    }
}

async fn scrape(url: &str) -> Result<BTreeMap<String, f64>> {
    let client =
        reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).pool_max_idle_per_host(0).build()?;
    let text = client.get(url).send().await?.error_for_status()?.text().await?;
    let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
    samples
        .map(|(name, value)| Ok((name.to_owned(), value.parse().with_context(|| format!("{name} is {value}"))?)))
        .collect()
}
