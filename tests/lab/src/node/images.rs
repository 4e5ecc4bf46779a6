//! The images that the node has: our services, the bus, Kubernetes' add-ons, and tools for tests.

use super::image::{Archive, Image, Layer, Start, libraries};
use crate::{parts::Parts, services::Services};
use anyhow::{Context, Result};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// What every pod's sandbox runs.
pub(super) const PAUSE: &str = "lab.local/pause:1";
/// A shell and small programs, for pods of tests.
pub(super) const TOOLS: &str = "lab.local/tools:1";
/// The same by another name, for pods that are updated.
pub(super) const NEXT_TOOLS: &str = "lab.local/tools:2";
pub(super) const COREDNS: &str = "lab.local/coredns:1";
pub(super) const METRICS_SERVER: &str = "lab.local/metrics-server:1";

/// Programs of this machine that go into [`TOOLS`], all of Debian packages.
const PROGRAMS: [&str; 2] = [BUSYBOX, "/usr/bin/socat"];
pub(crate) const BUSYBOX: &str = "/bin/busybox";
pub(crate) const ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Writes all of them into one archive. Names and tags are those that the charts ask for.
pub(super) async fn write(archive: &Path, parts: &Parts, services: Option<&Services>) -> Result<()> {
    let services: Vec<(&str, &PathBuf)> = services.map(|services| services.iter().collect()).unwrap_or_default();
    let mut shared = BTreeSet::new();
    for program in PROGRAMS.iter().map(Path::new).chain(services.iter().map(|(_, file)| file.as_path())) {
        shared.extend(libraries(program).await?);
    }
    let (archive, parts) = (archive.to_owned(), parts.clone());
    let services: Vec<(String, PathBuf)> =
        services.into_iter().map(|(name, file)| (name.to_owned(), file.clone())).collect();
    tokio::task::spawn_blocking(move || pack(&archive, &parts, &services, &shared))
        .await
        .context("writing images ended early")?
}

fn pack(archive: &Path, parts: &Parts, services: &[(String, PathBuf)], shared: &BTreeSet<PathBuf>) -> Result<()> {
    let mut archive = Archive::create(archive)?;
    let base = archive.layer(base(shared)?)?;
    let tools = archive.layer(tools()?)?;
    for name in [PAUSE, TOOLS, NEXT_TOOLS] {
        let (start, layers) = (Start::Command(&["sleep", "infinity"]), vec![base.clone(), tools.clone()]);
        archive.image(Image { name: name.to_owned(), start, layers })?;
    }
    let version = env!("CARGO_PKG_VERSION");
    let nats = ("nats-server".to_owned(), parts.path("nats-server")?.to_owned());
    let ours = services.iter().map(|service| (format!("docker.io/pipeops/{}:{version}", service.0), service));
    let others = [
        (format!("docker.io/library/{}", nats_image()?), nats),
        (COREDNS.to_owned(), ("coredns".to_owned(), parts.path("coredns")?.to_owned())),
        (METRICS_SERVER.to_owned(), ("metrics-server".to_owned(), parts.path("metrics-server")?.to_owned())),
    ];
    for (image, (program, file)) in ours.chain(others.iter().map(|(image, program)| (image.clone(), program))) {
        let mut layer = Layer::new();
        layer.file(file, &format!("/usr/local/bin/{program}"))?;
        let layers = vec![base.clone(), archive.layer(layer)?];
        archive.image(Image { name: image, start: Start::Entrypoint(program), layers })?;
    }
    archive.finish()
}

/// The bus, by the name that the chart and docker-compose.yaml have for it.
pub(crate) fn nats_image() -> Result<String> {
    Ok(format!("nats:{}-alpine", crate::parts::pinned("nats-server")?))
}

/// What a program that is linked on this machine needs: the libraries it was linked with, names of users, and CA certificates.
fn base(libraries: &BTreeSet<PathBuf>) -> Result<Layer> {
    let mut layer = Layer::new();
    for library in libraries {
        layer.file(library, &library.display().to_string())?;
    }
    layer.bytes(b"root:x:0:0:root:/root:/bin/sh\nnonroot:x:65532:65532:nonroot:/tmp:/bin/sh\n", "/etc/passwd")?;
    layer.bytes(b"root:x:0:\nnonroot:x:65532:\n", "/etc/group")?;
    if Path::new(ROOTS).exists() {
        layer.file(Path::new(ROOTS), ROOTS)?;
    }
    layer.scratch("/tmp")?;
    Ok(layer)
}

fn tools() -> Result<Layer> {
    let mut layer = Layer::new();
    for program in PROGRAMS {
        layer.file(Path::new(program), program)?;
    }
    applets(&mut layer)?;
    Ok(layer)
}

/// The small programs that busybox is.
pub(crate) fn applets(layer: &mut Layer) -> Result<()> {
    let output = std::process::Command::new("busybox").arg("--list").output().context("cannot run busybox")?;
    // Debian's crashes as wget; socat does for requests.
    let none = ["busybox", "wget"];
    for applet in String::from_utf8_lossy(&output.stdout).lines().filter(|applet| !none.contains(applet)) {
        layer.link(BUSYBOX, &format!("/bin/{applet}"))?;
    }
    Ok(())
}
