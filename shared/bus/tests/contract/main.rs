//! The bus's contract, the same for both backends, and what must hold when the NATS side of it fails.
//!
//! `nats-server` is taken from `$NATS_SERVER` or `$PATH`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says by failing what it did not expect"
)]

/// Each contract as one test per backend.
macro_rules! contract {
    ($($name:ident)*) => {
        mod nats {
            $(#[tokio::test]
            async fn $name() {
                super::$name(&crate::harness::Backend::nats().await).await;
            })*
        }
        mod local {
            $(#[tokio::test]
            async fn $name() {
                super::$name(&crate::harness::Backend::local().await).await;
            })*
        }
    };
}

mod child;
mod draining;
mod faults;
mod harness;
mod load;
mod permissions;
mod requests;
mod resets;
mod server;
mod streams;
mod wire;
