//! Building the product's services.

use crate::{folders, progress::Progress};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    process::Stdio,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::Command,
};

/// Says that the services are built.
pub(crate) const BUILT: &str = "PIPEOPS_LAB_SERVICES_BUILT";

/// What compiles quickly, and what ships.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Profile {
    Release,
    Dist,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Dist => "dist",
        }
    }

    /// With the dependencies as the tests have them, compiled once; and with no more of them than the services ask for, which is a
    /// MiB of memory in each process.
    fn selection(self) -> &'static str {
        match self {
            Self::Release => "--bin",
            Self::Dist => "--package",
        }
    }
}

const LINES_KEPT: usize = 60;

/// The services' programs, by name.
#[derive(Clone, Debug)]
pub(crate) struct Services {
    binaries: BTreeMap<String, PathBuf>,
}

/// The one kind of cargo's messages that names a program.
#[derive(Deserialize)]
struct Artifact {
    target: Target,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

impl Services {
    /// Builds every folder of `services/` that is a package. With [`BUILT`] in the environment, those of the release profile are taken
    /// as they are: many labs in turn need not ask cargo each time.
    pub(crate) async fn build(profile: Profile, progress: &Progress) -> Result<Self> {
        let packages = packages()?;
        if std::env::var_os(BUILT).is_some() {
            return Self::built(packages);
        }
        let step = progress.step("services", &format!("cargo build --profile {}", profile.name()));
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(["build", "--profile", profile.name(), "--message-format=json-render-diagnostics"]);
        for package in &packages {
            command.args([profile.selection(), package]);
        }
        command
            .current_dir(folders::workspace())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().context("cannot run cargo build")?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let mut tail = VecDeque::new();
        let (binaries, shown) = tokio::join!(artifacts(stdout), async {
            let mut crates = 0_u32;
            let Some(stderr) = stderr else { return Ok(()) };
            let mut lines = BufReader::new(stderr).lines();
            while let Some(line) = lines.next_line().await? {
                crates += u32::from(line.trim_start().starts_with("Compiling"));
                step.at(&format!("{crates} crates, {}", line.trim()));
                if tail.len() == LINES_KEPT {
                    tail.pop_front();
                }
                tail.push_back(line);
            }
            std::io::Result::Ok(())
        });
        shown.context("cannot read what cargo build says")?;
        let status = child.wait().await.context("cannot wait for cargo build")?;
        if !status.success() {
            step.failed("the services do not build");
            bail!("cargo build ended with {status}:\n{}", Vec::from(tail).join("\n"));
        }
        step.done(&packages.join(", "));
        Ok(Self { binaries: binaries? })
    }

    fn built(packages: Vec<String>) -> Result<Self> {
        let target = folders::target();
        let mut binaries = BTreeMap::new();
        for name in packages {
            let file = target.join("release").join(&name);
            anyhow::ensure!(file.is_file(), "{BUILT} is set, and {} does not exist", file.display());
            binaries.insert(name, file);
        }
        Ok(Self { binaries })
    }

    /// Names and files.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &PathBuf)> {
        self.binaries.iter().map(|(name, file)| (name.as_str(), file))
    }

    /// The file of a service's program.
    pub(crate) fn path(&self, name: &str) -> Result<PathBuf> {
        self.binaries.get(name).cloned().with_context(|| format!("services/ has no package with a program {name:?}"))
    }
}

/// The services' programs of the release profile by name, built when they are not.
///
/// # Errors
/// When they do not build.
pub async fn built(progress: &Progress) -> Result<BTreeMap<String, PathBuf>> {
    Ok(Services::build(Profile::Release, progress).await?.binaries)
}

fn packages() -> Result<Vec<String>> {
    let folder = folders::workspace().join("services");
    let mut packages = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let entry = entry?;
        if entry.path().join("Cargo.toml").is_file() {
            packages.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    packages.sort();
    Ok(packages)
}

async fn artifacts(stdout: Option<impl AsyncRead + Unpin>) -> Result<BTreeMap<String, PathBuf>> {
    let mut binaries = BTreeMap::new();
    let Some(stdout) = stdout else { return Ok(binaries) };
    let mut lines = BufReader::new(stdout).lines();
    while let Some(line) = lines.next_line().await.context("cannot read what cargo build says")? {
        if let Ok(Artifact { target, executable: Some(file) }) = serde_json::from_str(&line) {
            binaries.insert(target.name, file);
        }
    }
    Ok(binaries)
}
