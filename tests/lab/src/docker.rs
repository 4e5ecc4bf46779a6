//! A Docker engine: Debian's, in a machine of its own inside this one, with images in the place of those that a registry would have.

use crate::{
    debian,
    folders::write_atomically,
    node::{
        Machine,
        image::{Layer, libraries},
        images::{self, BUSYBOX, ROOTS},
    },
    parts::Parts,
    process::{Health, Spec},
    progress::Progress,
    wait,
};
use anyhow::{Context, Result};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

const PACKAGE: &str = "docker.io";
/// What the engine calls, and what goes into images.
const PACKAGES: [&str; 5] = ["busybox", "iproute2", "iptables", "libc-bin", "mount"];
const GRACE: Duration = Duration::from_secs(20);
/// No command takes longer.
const LIMIT: Duration = Duration::from_secs(120);

/// The engine, and programs beside it.
#[derive(Debug)]
pub struct Docker {
    machine: Arc<Machine>,
    package: PathBuf,
    /// Of every program that runs there.
    env: BTreeMap<String, String>,
    nats: PathBuf,
}

impl Docker {
    /// Stands in for a compiler's image: a shell, CA certificates, and the libraries that programs are linked with.
    pub const BUILD_IMAGE: &str = "lab.local/build:1";
    /// Stands in for `busybox:…-glibc`: a shell and a libc.
    pub const RUNTIME_IMAGE: &str = "lab.local/runtime:1";

    /// Looks whether there can be one here, and gives the folder of its programs.
    pub(crate) async fn require(progress: &Progress) -> Result<PathBuf> {
        Machine::check()?;
        debian::install(&PACKAGES, progress).await.context("a Docker engine needs programs of Debian packages")?;
        debian::unpack(PACKAGE, progress).await
    }

    pub(crate) fn prepare(machine: &Arc<Machine>, package: &Path, parts: &Parts) -> Result<Self> {
        let parts_path = parts.search_path()?.into_string().ok().context("a folder of PATH is no text")?;
        let package_path = format!("{0}/usr/sbin:{0}/usr/bin", package.display());
        let env = BTreeMap::from([
            ("PATH".to_owned(), format!("{package_path}:{parts_path}:/usr/sbin:/usr/bin:/sbin:/bin")),
            // What programs keep is not the user's.
            ("HOME".to_owned(), machine.folder.display().to_string()),
            ("DOCKER_HOST".to_owned(), format!("unix://{}", machine.folder.join("docker.sock").display())),
        ]);
        let nats = parts.path("nats-server")?.to_owned();
        Ok(Self { machine: Arc::clone(machine), package: package.to_owned(), env, nats })
    }

    pub(crate) fn engine(&self) -> Result<Spec> {
        let folder = &self.machine.folder;
        // A file of our own, because there may be one of the user's.
        let config = json!({
            "hosts": [self.env.get("DOCKER_HOST")],
            "data-root": folder.join("docker"),
            "cgroup-parent": self.machine.cgroup(),
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
        });
        let file = folder.join("docker.json");
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        write_atomically(&file, &serde_json::to_vec_pretty(&config)?, 0o600)?;
        let mut env = self.env.clone();
        // Of packages that are not installed.
        let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
        let libraries = ["lib", "usr/lib"].map(|lib| self.package.join(lib).join(&triplet).display().to_string());
        env.insert("LD_LIBRARY_PATH".to_owned(), libraries.join(":"));
        Ok(Spec {
            name: "dockerd".to_owned(),
            binary: self.package.join("usr/sbin/dockerd"),
            args: vec!["--config-file".to_owned(), file.display().to_string()],
            env,
            folder: folder.clone(),
            health: Health::Running,
            grace: GRACE,
        })
    }

    pub(crate) async fn wait_ready(&self, limit: Duration) -> Result<()> {
        wait::until("the Docker engine to answer", limit, || async {
            let mut command = self.command("docker");
            command.arg("info");
            self.run(command).await
        })
        .await?;
        Ok(())
    }

    /// A program of the engine's machine, of a part or of this machine: `docker`, `kubectl`. For [`Docker::run`].
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.envs(&self.env);
        command
    }

    /// Runs a program on the engine's machine and gives its stdout.
    ///
    /// # Errors
    /// When it ends with another status than 0, or not within two minutes; the message has its stderr.
    pub async fn run(&self, command: Command) -> Result<String> {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let what = words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ");
        let stdout = tokio::time::timeout(LIMIT, self.machine.spawner.run(command))
            .await
            .with_context(|| format!("{what} does not end"))?
            .with_context(|| format!("{what} failed"))?;
        Ok(String::from_utf8_lossy(&stdout).into_owned())
    }

    /// Makes [`Docker::BUILD_IMAGE`], [`Docker::RUNTIME_IMAGE`] and that of the bus. The first two are for programs that are linked as
    /// this one is.
    ///
    /// # Errors
    /// When the engine does not take them.
    pub async fn load_images(&self, program: &Path) -> Result<()> {
        let mut shared: BTreeSet<PathBuf> = libraries(Path::new(BUSYBOX)).await?.into_iter().collect();
        shared.extend(libraries(program).await?);
        let is_compilers = |library: &Path| library.ends_with("libgcc_s.so.1");
        let runtime = base(shared.iter().filter(|library| !is_compilers(library)))?;
        self.import(Self::RUNTIME_IMAGE, runtime, &[]).await?;
        let mut build = base(shared.iter())?;
        build.file(Path::new(ROOTS), ROOTS)?;
        self.import(Self::BUILD_IMAGE, build, &[]).await?;
        let mut nats = Layer::new();
        nats.file(&self.nats, "/usr/local/bin/nats-server")?;
        let start = r#"ENTRYPOINT ["/usr/local/bin/nats-server"]"#;
        self.import(&images::nats_image()?, nats, &["--change", start]).await
    }

    async fn import(&self, name: &str, files: Layer, options: &[&str]) -> Result<()> {
        let archive = self.machine.folder.join("image.tar");
        std::fs::write(&archive, files.finish()?).with_context(|| format!("cannot write {}", archive.display()))?;
        let mut import = self.command("docker");
        import.arg("import").args(options).arg(&archive).arg(name);
        self.run(import).await?;
        std::fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))
    }
}

fn base<'a>(libraries: impl Iterator<Item = &'a PathBuf>) -> Result<Layer> {
    let mut layer = Layer::new();
    for library in libraries {
        layer.file(library, &library.display().to_string())?;
    }
    layer.file(Path::new(BUSYBOX), BUSYBOX)?;
    images::applets(&mut layer)?;
    layer.scratch("/tmp")?;
    Ok(layer)
}
