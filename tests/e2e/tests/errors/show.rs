//! What a command prints when it fails.

use anyhow::{Result, ensure};
use e2e::normalise;
use lab::{Output, Tool};
use std::time::{Duration, Instant};

/// "At once" for a person; a timeout would take longer.
pub const AT_ONCE: Duration = Duration::from_secs(4);

/// Runs a command that has to fail with exit code 1, printing nothing on stdout; gives its stderr without kubectl's log lines, which
/// repeat the error once per attempt.
pub async fn failure(tool: &Tool, args: &[&str]) -> Result<String> {
    let output = tool.run(args).await?;
    failed(args, &output)
}

/// As [`failure`], and quickly so.
pub async fn quick_failure(tool: &Tool, args: &[&str]) -> Result<String> {
    let started = Instant::now();
    let said = failure(tool, args).await?;
    ensure!(started.elapsed() < AT_ONCE, "kubectl {} took {:?} to say: {said}", args.join(" "), started.elapsed());
    Ok(said)
}

fn failed(args: &[&str], output: &Output) -> Result<String> {
    let what = args.join(" ");
    ensure!(output.status.code() == Some(1), "kubectl {what} ended with {}: {output:?}", output.status);
    ensure!(output.stdout.is_empty(), "kubectl {what} failed, and printed {}", output.stdout);
    let lines = normalise(&output.stderr);
    let lines: Vec<&str> = lines.lines().filter(|line| !line.contains("memcache.go")).collect();
    Ok(lines.join("\n"))
}
