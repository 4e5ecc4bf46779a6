//! `cargo lab fuzz`.

use super::pass_through;
use crate::{parts::Parts, progress::Progress};
use anyhow::Result;
use std::process::ExitCode;

/// Builds and runs `tests/fuzz` with these arguments.
pub(super) async fn run(args: &[String]) -> Result<ExitCode> {
    let parts = Parts::of(&[], &Progress::detect()).await?;
    let mut all = vec!["run", "--release", "--bin", "fuzz", "--"];
    all.extend(args.iter().map(String::as_str));
    pass_through("cargo", &all, &parts).await
}
