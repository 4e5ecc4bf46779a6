//! Figures, always beside the direct path and the peers in the same run.
//!
//! ```text
//!   cli ─► a bench (proxy, kubectl, link, tunnel) ─► subjects × rows ─► Report: median and spread ─► table, JSON
//!                                    │
//!                       load: closed loop, fixed rate, bodies, watches
//!                                    │
//!                  client: HTTP/1.1 on kept connections, the same for every subject
//! ```
//!
//! The client shares the machine with what it measures, so it runs on one thread and does as little as it can. A bench is a module
//! that fills a [`Report`]; what all of them need (client, load, peers, report) knows nothing of any one bench.

mod backend;
mod cli;
mod client;
pub mod kubectl;
pub mod link;
mod load;
mod objects;
mod options;
mod peers;
pub mod proxy;
mod report;
pub mod tunnel;
mod turns;
mod usage;
mod watches;
mod ways;

pub use crate::{
    cli::main,
    report::{Record, Report},
};
