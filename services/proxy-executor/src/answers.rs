//! The requests that are not for the API server: how this executor is, and what it makes of a wish.

use std::sync::Arc;

use anyhow::Context as _;
use bus::facts::{AskProxyExecutor, CheckProxyPolicy, Verdict};
use bus::{Bus, Serving};

use crate::facts::Seen;
use crate::policy::{Limits, narrower};

/// Answers until what it gives is stopped or dropped.
pub async fn serve(bus: &Bus, limits: &Arc<Limits>, seen: &Arc<Seen>) -> anyhow::Result<[Serving; 2]> {
    let ask = {
        let seen = Arc::clone(seen);
        move |_: AskProxyExecutor| std::future::ready(Ok(seen.facts()))
    };
    let check = {
        let limits = Arc::clone(limits);
        move |wish: CheckProxyPolicy| {
            let refused = narrower(limits.owner(), &wish.policy);
            std::future::ready(Ok(Verdict { refused, pending: !limits.enforces(&wish.policy) }))
        }
    };
    Ok([
        bus.serve(ask).await.context("cannot serve facts")?,
        bus.serve(check).await.context("cannot serve what the owner allows")?,
    ])
}
