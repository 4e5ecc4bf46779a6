//! What is checked besides the tests.

use super::generate;
use crate::{folders, parts::Parts, progress::Progress};
use anyhow::{Context, Result, bail};
use std::{path::Path, process::Stdio};
use tokio::process::Command;

/// The checks' names, in the order they run: the quickest first.
pub(super) const ALL: [&str; 4] = ["fmt", "helm-lint", "clippy", "generated"];

/// Runs one check.
pub(super) async fn run(check: &str, parts: &Parts, progress: &Progress) -> Result<()> {
    match check {
        "fmt" => quietly(Path::new("cargo"), &["fmt", "--all", "--check"]).await,
        "clippy" => {
            let args = ["clippy", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"];
            quietly(Path::new("cargo"), &args).await
        }
        "generated" => generate::check(progress).await,
        "helm-lint" => helm_lint(parts).await,
        other => bail!("there is no check {other:?}"),
    }
}

async fn helm_lint(parts: &Parts) -> Result<()> {
    let helm = parts.path("helm")?;
    let charts = folders::workspace().join("charts");
    for entry in std::fs::read_dir(&charts).with_context(|| format!("cannot list {}", charts.display()))? {
        let chart = entry?.path();
        let mut args = vec!["lint", "--quiet"];
        let chart_name = chart.display().to_string();
        args.push(&chart_name);
        if chart.ends_with("pipeops-agent") {
            // What an installation has to say.
            args.extend([
                "--set",
                "agent.cluster.name=lint,agent.pipeops.apiUrl=https://lint:8443,agent.pipeops.token=lint",
            ]);
        }
        quietly(helm, &args).await?;
    }
    Ok(())
}

/// Runs a program; its output is the error when it fails.
async fn quietly(program: &Path, args: &[&str]) -> Result<()> {
    let mut command = Command::new(program);
    command.args(args).current_dir(folders::workspace()).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.with_context(|| format!("cannot run {}", program.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    bail!("{} {} ended with {}\n{}", program.display(), args.join(" "), output.status, said.trim_end())
}
