//! Tests of one binary in one lab. Rust's own harness has no end to hook into, and a lab is to be stopped in order, so these binaries
//! have a `main` of their own that understands the same arguments.

use anyhow::{Result, anyhow};
use futures::future::BoxFuture;
use lab::{Lab, Options};
use libtest_mimic::{Arguments, Failed, Trial};
use std::{process::ExitCode, sync::Arc};
use tokio::{runtime::Runtime, sync::OnceCell};

/// A test: its name, and what it does with the lab.
pub type Case = (&'static str, fn(Arc<Lab>) -> BoxFuture<'static, Result<()>>);

/// Whether tests may run side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turns {
    /// They leave each other's objects alone.
    Together,
    /// They break the lab, and mend it before they end.
    OneByOne,
}

/// The list of tests: functions that take the lab and give `anyhow::Result<()>`.
#[macro_export]
macro_rules! cases {
    ($($test:path),* $(,)?) => {
        vec![$({
            let case: $crate::Case = (stringify!($test), |lab| Box::pin($test(lab)));
            case
        }),*]
    };
}

/// Runs the tests as `cargo test` asks for, in a lab that the first of them starts. The lab is stopped whatever becomes of them.
#[must_use]
pub fn run(options: Options, turns: Turns, cases: Vec<Case>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    if turns == Turns::OneByOne {
        arguments.test_threads = Some(1);
    }
    let runtime = match Runtime::new() {
        Ok(runtime) => Arc::new(runtime),
        Err(error) => {
            eprintln!("cannot start a runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let shared = Arc::new(Shared { options, lab: OnceCell::new() });
    let trials = cases
        .into_iter()
        .map(|(name, case)| {
            let (runtime, shared) = (Arc::clone(&runtime), Arc::clone(&shared));
            Trial::test(name.replace(' ', ""), move || {
                runtime
                    .block_on(async { case(shared.lab().await?).await })
                    .map_err(|error| Failed::from(format!("{error:#}")))
            })
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    let stopped = match Arc::into_inner(shared).and_then(|shared| shared.lab.into_inner()) {
        Some(Ok(lab)) => match Arc::into_inner(lab) {
            Some(lab) => runtime.block_on(lab.stop()),
            None => Err(anyhow!("a test has left something behind that uses the lab")),
        },
        _ => Ok(()),
    };
    if let Err(error) = &stopped {
        eprintln!("the lab did not stop: {error:#}");
    }
    if conclusion.has_failed() || stopped.is_err() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

struct Shared {
    options: Options,
    /// A lab that does not start is tried once, not once per test.
    lab: OnceCell<Result<Arc<Lab>, String>>,
}

impl Shared {
    async fn lab(&self) -> Result<Arc<Lab>> {
        let start =
            || async { Lab::start(self.options.clone()).await.map(Arc::new).map_err(|error| format!("{error:#}")) };
        self.lab.get_or_init(start).await.clone().map_err(|error| anyhow!("the lab does not start: {error}"))
    }
}
