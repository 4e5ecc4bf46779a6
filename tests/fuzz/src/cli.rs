//! `cargo lab fuzz [TARGET] [--minutes N]`.

use crate::{Budget, Progress, Target, read, run, write};
use anyhow::Result;
use clap::{Parser, ValueEnum};
use std::{process::ExitCode, time::Duration};

/// Feeds made-up bytes to what reads the bytes of peers. What fails is cut down and written to tests/fuzz/corpus, whose files the
/// ordinary tests replay.
#[derive(Debug, Parser)]
#[command(name = "cargo lab fuzz", bin_name = "cargo lab fuzz")]
struct Cli {
    /// Only this one; else all in turn, each for its part of the time
    target: Option<Target>,
    /// How long, together
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Where to begin; the same seed makes the same inputs
    #[arg(long)]
    seed: Option<u64>,
}

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    match fuzz(&Cli::parse()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Gives how many targets have failed.
fn fuzz(cli: &Cli) -> Result<usize> {
    let targets = cli.target.map_or_else(|| Target::value_variants().to_vec(), |target| vec![target]);
    let seed = cli.seed.unwrap_or_else(rand::random);
    let time = Duration::from_secs(cli.minutes * 60) / u32::try_from(targets.len())?;
    let shown = lab::Progress::detect();
    let mut failed = 0;
    for target in targets {
        let corpus: Vec<Vec<u8>> = read(target)?.into_iter().map(|entry| entry.input).collect();
        let step = shown.step(target.name(), &format!("{} files, seed {seed}", corpus.len()));
        let said = |progress: Progress| step.at(&progress.to_string());
        match run(target, &corpus, Budget::Time(time), seed, said) {
            Ok(progress) => step.done(&progress.to_string()),
            Err(failure) => {
                failed += 1;
                let file = write(target, &failure.input)?;
                step.failed(&format!("{}; the input is {}", failure.reason, file.display()));
            }
        }
    }
    Ok(failed)
}
