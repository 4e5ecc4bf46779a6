//! Tests of one binary in one lab. Rust's own harness has no end to hook into, and a lab is to be stopped in order, so these binaries
//! have a `main` of their own that understands the same arguments.

use anyhow::{Context, Result, anyhow};
use futures::future::BoxFuture;
use lab::{Lab, Options};
use libtest_mimic::{Arguments, Failed, Trial};
use std::{process::ExitCode, sync::Arc, time::Duration};
use tokio::{runtime::Runtime, sync::OnceCell, time::timeout};

/// The longest test, with others beside it, takes half of it. The start of the lab is not part of it: it may have parts to build.
const TEST_ENDS_WITHIN: Duration = Duration::from_secs(300);

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
    run_in(turns, move || Lab::start(options.clone()), Lab::stop, cases)
}

/// As [`run`], in anything that is started once for all tests.
pub(crate) fn run_in<L, S, E, P>(
    turns: Turns,
    start: impl Fn() -> S + Send + Sync + 'static,
    stop: impl FnOnce(L) -> E,
    tests: impl IntoIterator<Item = (&'static str, impl FnOnce(Arc<L>) -> P + Send + 'static)>,
) -> ExitCode
where
    L: Send + Sync + 'static,
    S: Future<Output = Result<L>>,
    E: Future<Output = Result<()>>,
    P: Future<Output = Result<()>>,
{
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
    let shared = Arc::new(Shared { start, lab: OnceCell::new() });
    let trials = tests
        .into_iter()
        .map(|(name, test)| {
            let (runtime, shared) = (Arc::clone(&runtime), Arc::clone(&shared));
            Trial::test(name.replace(' ', ""), move || {
                let outcome = runtime.block_on(async {
                    let lab = shared.lab().await?;
                    timeout(TEST_ENDS_WITHIN, test(lab)).await.context("the test hangs")?
                });
                outcome.map_err(|error| Failed::from(format!("{error:#}")))
            })
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    let stopped = match Arc::into_inner(shared).and_then(|shared| shared.lab.into_inner()) {
        Some(Ok(lab)) => match Arc::into_inner(lab) {
            Some(lab) => runtime.block_on(stop(lab)),
            None => Err(anyhow!("a test has left something behind that uses the lab")),
        },
        _ => Ok(()),
    };
    if let Err(error) = &stopped {
        eprintln!("the lab did not stop: {error:#}");
    }
    if conclusion.has_failed() || stopped.is_err() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

struct Shared<L, F> {
    start: F,
    /// A lab that does not start is tried once, not once per test.
    lab: OnceCell<Result<Arc<L>, String>>,
}

impl<L, S: Future<Output = Result<L>>, F: Fn() -> S> Shared<L, F> {
    async fn lab(&self) -> Result<Arc<L>> {
        let start = || async { (self.start)().await.map(Arc::new).map_err(|error| format!("{error:#}")) };
        self.lab.get_or_init(start).await.clone().map_err(|error| anyhow!("the lab does not start: {error}"))
    }
}
