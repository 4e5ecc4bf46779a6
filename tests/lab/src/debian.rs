//! Packages of Debian: libraries and programs that the lab does not build itself.

use crate::{
    folders,
    progress::{Progress, Step},
};
use anyhow::{Context, Result, bail, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::Command,
    sync::Mutex,
};

/// apt and dpkg take turns anyway, and fail when they meet.
static TURN: Mutex<()> = Mutex::const_new(());

/// Installs those of the packages that are not installed. On systems without dpkg they are taken to be there: what is missing shows in
/// what needs it.
///
/// # Errors
/// When apt does not install them, or this is not root.
pub async fn install(packages: &[&str], progress: &Progress) -> Result<()> {
    let _turn = TURN.lock().await;
    if !Path::new("/usr/bin/dpkg-query").exists() {
        return Ok(());
    }
    let missing = missing(packages).await?;
    if missing.is_empty() {
        return Ok(());
    }
    let by_hand = format!("apt-get update && apt-get install --yes --no-install-recommends {}", missing.join(" "));
    if !rustix::process::geteuid().is_root() {
        bail!("these Debian packages are missing: {}. As root: {by_hand}", missing.join(", "));
    }
    let install = [&["install", "--yes", "--no-install-recommends"], missing.as_slice()].concat();
    let step = progress.step("Debian packages", &missing.join(", "));
    get(&install, &step).await.with_context(|| format!("cannot install Debian packages; by hand: {by_hand}"))?;
    step.done(&format!("installed: {}", missing.join(", ")));
    Ok(())
}

/// The files of a package and of those that it needs and that are not installed, in a folder of the cache. Installing them would start
/// their services, now and whenever the machine does.
///
/// # Errors
/// When apt does not get them, or this is another system than Debian.
pub async fn unpack(package: &str, progress: &Progress) -> Result<PathBuf> {
    let _turn = TURN.lock().await;
    let folder = folders::cache()?.join("debian").join(package);
    if folder.exists() {
        return Ok(folder);
    }
    ensure!(Path::new("/usr/bin/dpkg-deb").exists(), "{package} is a package of Debian, and this system is another");
    let step = progress.step("Debian packages", package);
    // Another run may be at the same.
    let workshop = folder.with_extension(std::process::id().to_string());
    let unpacked = unpack_in(&workshop, package, &folder, &step).await;
    let removed = fs::remove_dir_all(&workshop).with_context(|| format!("cannot remove {}", workshop.display()));
    unpacked.and(removed)?;
    step.done(&format!("{package} is in {}", folder.display()));
    Ok(folder)
}

async fn unpack_in(workshop: &Path, package: &str, folder: &Path, step: &Step) -> Result<()> {
    let (archives, files) = (workshop.join("archives"), workshop.join("files"));
    for made in [&archives.join("partial"), &files] {
        fs::create_dir_all(made).with_context(|| format!("cannot create {}", made.display()))?;
    }
    let into = format!("Dir::Cache::archives={}", archives.display());
    let download = ["install", "--download-only", "--reinstall", "--yes", "--no-install-recommends", "--option", &into];
    get(&[&download, [package].as_slice()].concat(), step)
        .await
        .with_context(|| format!("cannot get Debian's package {package}"))?;
    for entry in fs::read_dir(&archives).with_context(|| format!("cannot list {}", archives.display()))? {
        let archive = entry?.path();
        if archive.extension().is_some_and(|extension| extension == "deb") {
            let mut command = Command::new("dpkg-deb");
            run(command.arg("--extract").arg(&archive).arg(&files), step).await?;
        }
    }
    if let Err(error) = fs::rename(&files, folder)
        && !folder.exists()
    {
        return Err(error).with_context(|| format!("cannot create {}", folder.display()));
    }
    Ok(())
}

async fn missing<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    let mut missing = Vec::new();
    for package in packages {
        let mut command = Command::new("dpkg-query");
        command
            .args(["--show", "--showformat", "${db:Status-Status}", package])
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = command.output().await.context("cannot run dpkg-query")?;
        // Once for each architecture.
        if !output.stdout.starts_with(b"installed") {
            missing.push(*package);
        }
    }
    Ok(missing)
}

async fn get(install: &[&str], step: &Step) -> Result<()> {
    if apt(install, step).await.is_ok() {
        return Ok(());
    }
    // The lists are missing or old. A source of the user's that does not answer is no reason to give up.
    let updated = apt(&["update"], step).await;
    apt(install, step).await.map_err(|error| updated.err().unwrap_or(error))
}

async fn apt(args: &[&str], step: &Step) -> Result<()> {
    let mut command = Command::new("apt-get");
    // Another apt on this machine is waited for. One that is killed half-way leaves packages broken, so it goes on when this ends.
    command.args(["--quiet", "--option", "DPkg::Lock::Timeout=300"]).args(args);
    run(command.env("DEBIAN_FRONTEND", "noninteractive"), step).await
}

/// Runs it to its end, and says what it is at.
async fn run(command: &mut Command, step: &Step) -> Result<()> {
    let what = format!("{:?}", command.as_std());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let work = async {
        let mut child = command.spawn()?;
        let (stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
        let mut said = String::new();
        let show = async {
            let Some(stdout) = stdout else { return Ok(()) };
            let mut lines = BufReader::new(stdout).lines();
            while let Some(line) = lines.next_line().await? {
                step.at(&line);
            }
            Ok(())
        };
        let listen = async {
            match &mut stderr {
                Some(stderr) => stderr.read_to_string(&mut said).await.map(drop),
                None => Ok(()),
            }
        };
        tokio::try_join!(show, listen)?;
        std::io::Result::Ok((child.wait().await?, said))
    };
    let (status, said) = work.await.with_context(|| format!("cannot run {what}"))?;
    if !status.success() {
        bail!("{what} ended with {status}: {}", said.trim());
    }
    Ok(())
}
