//! `cargo lab test`.

mod count;

use super::{checks, run_group};
use crate::{
    folders,
    parts::{Parts, Use},
    progress::{Progress, Step},
    services::{BUILT, Profile, Services},
};
use anyhow::{Context, Result};
use count::Counter;
use std::{
    fs::File,
    io::{BufRead, BufReader, PipeReader, Write},
    path::Path,
    process::{ExitCode, Stdio},
    sync::Arc,
};

/// Runs the checks and tests whose name contains `filter`, or all of them. The last line has the counts.
pub(super) async fn run(filter: Option<String>) -> Result<ExitCode> {
    let progress = Progress::detect();
    let parts = Parts::of(&[Use::Lab, Use::Benches, Use::Tests], &progress).await?;
    // Those of a node need more than the others, and most tests need no node.
    if let Err(error) = Parts::of(&[Use::Node], &progress).await {
        eprintln!("tests that need a node will fail: {error:#}");
    }
    let (mut passed, mut failed) = (0, 0);
    for check in
        checks::ALL.into_iter().filter(|check| filter.as_ref().is_none_or(|filter| check.contains(filter.as_str())))
    {
        let step = progress.step(check, "checking");
        match checks::run(check, &parts, &progress).await {
            Ok(()) => {
                passed += 1;
                step.done("passed");
            }
            Err(error) => {
                failed += 1;
                step.failed("failed");
                println!("{error:#}");
            }
        }
    }
    // The whole name of a check asks for that check: every test would be compiled to run none.
    if !checks::ALL.iter().any(|check| filter.as_deref() == Some(*check)) {
        match tests(filter.as_deref(), &parts, &progress).await {
            Ok(tests) => {
                passed += tests.passed;
                failed += tests.failed;
            }
            Err(error) => {
                failed += 1;
                println!("{error:#}");
            }
        }
    }
    if passed + failed == 0 {
        println!("no check and no test has {:?} in its name", filter.unwrap_or_default());
        failed = 1;
    }
    println!("{passed} passed, {failed} failed");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn tests(filter: Option<&str>, parts: &Parts, progress: &Progress) -> Result<count::Counts> {
    // The labs of the tests find them built, so that no test's own time limit pays for it.
    Services::build(Profile::Release, progress).await?;
    let step = Arc::new(progress.step("tests", "cargo test --release"));
    let log = folders::target().join("lab-test.log");
    let file = create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    // One pipe for both, so that what cargo and the tests say stays in order.
    let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    let mut command = tokio::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["test", "--release", "--workspace", "--no-fail-fast"]);
    if let Some(filter) = filter {
        command.args(["--", filter]);
    }
    command
        .current_dir(folders::workspace())
        .env("PATH", parts.search_path()?)
        .env("NATS_SERVER", parts.path("nats-server")?)
        .env(BUILT, "1")
        // An error of a test has its own chain; a backtrace under each hides it.
        .env("RUST_LIB_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(writer.try_clone().context("cannot share a pipe")?)
        .stderr(writer);
    let read = {
        let step = Arc::clone(&step);
        tokio::task::spawn_blocking(move || read(reader, file, &step))
    };
    let status = run_group(command).await?;
    let counts = read.await.context("reading what cargo test says ended early")??.end(status.success());
    if let Some(step) = Arc::into_inner(step) {
        let message = format!("{} passed, {} failed; all they said: {}", counts.passed, counts.failed, log.display());
        if counts.failed == 0 { step.done(&message) } else { step.failed(&message) }
    }
    Ok(counts)
}

/// The folder is not there yet where nothing was built, or all of it elsewhere.
fn create(log: &Path) -> std::io::Result<File> {
    log.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    File::create(log)
}

fn read(reader: PipeReader, mut log: File, step: &Step) -> Result<Counter> {
    let mut counter = Counter::default();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).context("cannot read what cargo test says")? > 0 {
        log.write_all(&line).context("cannot write the tests' log")?;
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        step.at(text);
        for shown in counter.line(text) {
            println!("{shown}");
        }
        line.clear();
    }
    Ok(counter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_made_with_the_folder_that_it_is_in() {
        let folder = std::env::temp_dir().join(format!("lab-test-log-{}", std::process::id()));
        let log = folder.join("target/lab-test.log");
        create(&log).unwrap();
        assert!(log.is_file());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
