//! `cargo lab bench`.

use super::pass_through;
use crate::{
    parts::{Parts, Use},
    progress::Progress,
};
use anyhow::Result;
use std::process::ExitCode;

/// Builds and runs `tests/bench` with these arguments. The parts are fetched first, so that their progress is seen.
pub(super) async fn run(args: &[String]) -> Result<ExitCode> {
    let parts = Parts::of(&[Use::Lab, Use::Benches], &Progress::detect()).await?;
    let mut all = vec!["run", "--release", "--bin", "bench", "--"];
    all.extend(args.iter().map(String::as_str));
    pass_through("cargo", &all, &parts).await
}
