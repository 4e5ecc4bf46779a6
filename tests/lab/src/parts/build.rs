//! Building a part from its Go module, once.

use super::{Part, Version, find::is_executable};
use crate::{
    folders,
    progress::{Progress, Step},
};
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::{
    collections::VecDeque,
    fs::{File, TryLockError},
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

/// The folder with the part's binaries, when they have been built.
pub(super) async fn cached(part: &'static Part) -> Result<Option<PathBuf>> {
    let (_, target) = target(part).await?;
    Ok(complete(part, &target).then_some(target))
}

/// Builds the part, or waits for another run that does. Gives the folder with its binaries and `cache` or `built now`.
pub(super) async fn build_once(part: &'static Part, progress: &Progress) -> Result<(PathBuf, &'static str)> {
    let (base, target) = target(part).await?;
    std::fs::create_dir_all(&base).with_context(|| format!("cannot create {}", base.display()))?;
    let step = progress.step(format!("{} {}", part.name, part.version), "go build");
    let _lock = lock(&base, &step).await?;
    if complete(part, &target) {
        step.done("another run has built it");
        return Ok((target, "cache"));
    }
    match build(part, &base, &target, &step).await {
        Ok(()) => {
            step.done("built");
            Ok((target, "built now"))
        }
        Err(error) => {
            step.failed("does not build");
            Err(error)
        }
    }
}

/// The part's folder in the cache, and in it the one for everything that decides what comes out.
async fn target(part: &Part) -> Result<(PathBuf, PathBuf)> {
    let module = folders::part_modules().join(part.name);
    let go = go_version(&module).await?;
    let base = folders::cache()?.join("parts").join(part.name);
    let target = base.join(key(part, &module, &go)?);
    Ok((base, target))
}

fn complete(part: &Part, folder: &Path) -> bool {
    part.binaries.iter().all(|binary| is_executable(&folder.join(binary.name)))
}

/// Go's version as it is for this module (a go.mod may ask for another toolchain than the installed one).
async fn go_version(module: &Path) -> Result<String> {
    let output = Command::new("go").args(["env", "GOVERSION"]).current_dir(module).stdin(Stdio::null()).output().await;
    let output = match output {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!("Go is missing. {}", install_go()),
        Err(error) => return Err(error).context("cannot run go"),
    };
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let version = Version::first_in(&format!("{text}.0"));
    if !output.status.success() || version.is_none_or(|version| (version.major, version.minor) < OLDEST_GO) {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("this Go cannot build the lab's parts ({text}{}). {}", said.trim(), install_go());
    }
    Ok(text)
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

fn ldflags(part: &Part) -> String {
    format!("-s -w {}", part.ldflags)
}

/// A name for everything that decides what comes out.
fn key(part: &Part, module: &Path, go: &str) -> Result<String> {
    let mut hash = Sha256::new();
    for file in ["go.mod", "go.sum"] {
        let path = module.join(file);
        hash.update(std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?);
    }
    hash.update(ldflags(part));
    for binary in part.binaries {
        hash.update(binary.package);
    }
    hash.update(go);
    hash.update(std::env::consts::ARCH);
    let hash = hash.finalize();
    Ok(hash.iter().take(8).fold(String::new(), |text, byte| format!("{text}{byte:02x}")))
}

/// Holds the part's lock file until dropped, so that two runs do not build the same thing.
async fn lock(base: &Path, step: &Step) -> Result<File> {
    let path = base.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => step.at("another run is building it: waiting"),
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("cannot lock {}", path.display()));
        }
    }
    tokio::task::spawn_blocking(move || file.lock().map(|()| file))
        .await
        .context("waiting for the lock ended early")?
        .with_context(|| format!("cannot lock {}", path.display()))
}

async fn build(part: &Part, base: &Path, target: &Path, step: &Step) -> Result<()> {
    let module = folders::part_modules().join(part.name);
    // Nobody else builds this part now, so what an aborted run left can go.
    let temporary = base.join("building");
    if temporary.exists() {
        std::fs::remove_dir_all(&temporary).with_context(|| format!("cannot remove {}", temporary.display()))?;
    }
    std::fs::create_dir_all(&temporary).with_context(|| format!("cannot create {}", temporary.display()))?;

    let mut command = Command::new("go");
    command
        .args(["build", "-v", "-mod=readonly", "-trimpath", "-ldflags", &ldflags(part), "-o"])
        .arg(format!("{}/", temporary.display()))
        .args(part.binaries.iter().map(|binary| binary.package))
        .current_dir(&module)
        .env("CGO_ENABLED", "0")
        .env("GOWORK", "off")
        .env_remove("GOFLAGS")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().context("cannot run go build")?;
    let mut tail = VecDeque::new();
    if let Some(stderr) = child.stderr.take() {
        let mut lines = BufReader::new(stderr).lines();
        let mut packages = 0_u32;
        while let Some(line) = lines.next_line().await.context("cannot read what go build says")? {
            packages += u32::from(!line.contains(' '));
            step.at(&format!("{packages} packages, {line}"));
            if tail.len() == LINES_KEPT {
                tail.pop_front();
            }
            tail.push_back(line);
        }
    }
    let status = child.wait().await.context("cannot wait for go build")?;
    if !status.success() {
        bail!("go build in {} ended with {status}:\n{}", module.display(), Vec::from(tail).join("\n"));
    }
    for binary in part.binaries {
        let (from, to) = (temporary.join(binary.built_as), temporary.join(binary.name));
        std::fs::rename(&from, &to).with_context(|| format!("go build gave no {}", from.display()))?;
    }
    if target.exists() {
        std::fs::remove_dir_all(target).with_context(|| format!("cannot replace {}", target.display()))?;
    }
    std::fs::rename(&temporary, target).with_context(|| format!("cannot create {}", target.display()))
}
