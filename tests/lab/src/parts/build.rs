//! Building a part from its Go module or Rust package, once.

use super::{
    Build, Part,
    cache::{self, Places},
    version::Version,
};
use crate::{
    debian,
    progress::{Progress, Step},
};
use anyhow::{Context, Result, bail};
use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    process::Stdio,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

/// Modules need a Go that can fetch the toolchain a go.mod asks for.
const OLDEST_GO: (u32, u32) = (1, 21);
const MEMORY_PER_BUILD: u64 = 2 << 30;
const LINES_KEPT: usize = 30;

/// How many builds to run at once: linking Kubernetes takes about 1.5 GB, and the Go tool itself uses every core, so more builds than
/// cores gain nothing.
pub(super) fn parallel() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(MEMORY_PER_BUILD, |kilobytes| kilobytes * 1024);
    usize::try_from(available / MEMORY_PER_BUILD).unwrap_or(1).clamp(1, cores)
}

/// The Go on `PATH`, when it can build this module (a go.mod may ask for another toolchain than the installed one).
async fn fitting_go(places: &Places, module: &Path) -> Result<PathBuf> {
    let Some(go) = places.program("go") else { bail!("Go is missing. {}", install_go()) };
    let mut command = Command::new(&go);
    command.args(["env", "GOVERSION"]).current_dir(module).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.with_context(|| format!("cannot run {}", go.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let version = Version::first_in(&format!("{text}.0"));
    if !output.status.success() || version.is_none_or(|version| (version.major, version.minor) < OLDEST_GO) {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("this Go cannot build the lab's parts ({text}{}). {}", said.trim(), install_go());
    }
    Ok(go)
}

fn install_go() -> String {
    let arch = match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    };
    format!(
        "It builds the lab's parts; this installs it:\n  \
         curl -fsSL https://go.dev/dl/go1.26.8.linux-{arch}.tar.gz | sudo tar -C /usr/local -xz && export PATH=$PATH:/usr/local/go/bin"
    )
}

impl Part {
    /// What builds it, as it is shown.
    pub(super) fn tool(&self) -> &'static str {
        match self.build {
            Build::Rust => "cargo build",
            Build::Pure | Build::C { .. } => "go build",
        }
    }

    /// Linker flags.
    fn ldflags(&self) -> String {
        format!("-s -w {}", self.ldflags)
    }

    /// All that decides what comes out besides the module.
    pub(super) fn flags(&self) -> String {
        match self.build {
            Build::Pure | Build::Rust => self.ldflags(),
            Build::C { tags, .. } => format!("{} -tags {tags}", self.ldflags()),
        }
    }
}

/// Builds the part into the cache. The caller holds its lock.
pub(super) async fn build(part: &Part, places: &Places, progress: &Progress, step: &Step) -> Result<PathBuf> {
    let workshop = cache::workshop(&places.base(part))?;
    match part.build {
        Build::Rust => cargo(part, places, &workshop, step).await?,
        Build::Pure => go(part, places, &workshop, "0", "", step).await?,
        Build::C { tags, packages } => {
            debian::install(packages, progress).await.context("it needs C libraries")?;
            go(part, places, &workshop, "1", tags, step).await?;
        }
    }
    let target = places.built(part)?;
    cache::keep(&workshop, &target)?;
    Ok(target)
}

async fn go(part: &Part, places: &Places, workshop: &Path, cgo: &str, tags: &str, step: &Step) -> Result<()> {
    let module = places.module(part);
    let mut command = Command::new(fitting_go(places, &module).await?);
    command
        .args(["build", "-v", "-mod=readonly", "-trimpath", "-tags", tags, "-ldflags", &part.ldflags(), "-o"])
        .arg(format!("{}/", workshop.display()))
        .args(part.binaries.iter().map(|binary| binary.package))
        .current_dir(&module)
        .env("CGO_ENABLED", cgo)
        .env("GOWORK", "off")
        .env_remove("GOFLAGS");
    run(command, "go build", &module, step).await?;
    for binary in part.binaries {
        let (from, to) = (workshop.join(binary.built_as), workshop.join(binary.name));
        std::fs::rename(&from, &to).with_context(|| format!("go build gave no {}", from.display()))?;
    }
    Ok(())
}

async fn cargo(part: &Part, places: &Places, workshop: &Path, step: &Step) -> Result<()> {
    let module = places.module(part);
    let target = workshop.join("target");
    let cargo = places.program("cargo").context("Cargo is missing: install Rust")?;
    let mut command = Command::new(cargo);
    command
        .args(["build", "--release", "--locked", "--target-dir"])
        .arg(&target)
        .current_dir(&module)
        // Those that are meant for the product's build.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    run(command, "cargo build", &module, step).await?;
    for binary in part.binaries {
        let (from, to) = (target.join("release").join(binary.built_as), workshop.join(binary.name));
        std::fs::rename(&from, &to).with_context(|| format!("cargo build gave no {}", from.display()))?;
    }
    std::fs::remove_dir_all(&target).with_context(|| format!("cannot remove {}", target.display()))
}

/// Shows what the command says while it runs; the error of one that fails ends with that.
async fn run(mut command: Command, what: &str, module: &Path, step: &Step) -> Result<()> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().with_context(|| format!("cannot run {what}"))?;
    let mut tail = VecDeque::new();
    if let Some(stderr) = child.stderr.take() {
        let mut lines = BufReader::new(stderr).lines();
        let mut packages = 0_u32;
        while let Some(line) = lines.next_line().await.with_context(|| format!("cannot read what {what} says"))? {
            packages += u32::from(!line.contains(' ') || line.trim_start().starts_with("Compiling"));
            step.at(&format!("{packages} packages, {}", line.trim()));
            if tail.len() == LINES_KEPT {
                tail.pop_front();
            }
            tail.push_back(line);
        }
    }
    let status = child.wait().await.with_context(|| format!("cannot wait for {what}"))?;
    if !status.success() {
        bail!("{what} in {} ended with {status}:\n{}", module.display(), Vec::from(tail).join("\n"));
    }
    Ok(())
}
