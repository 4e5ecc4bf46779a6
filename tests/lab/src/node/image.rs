//! Container images, written as one OCI archive: no registry is asked.
//!
//! Format: <https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md>, in a tar file, layers uncompressed.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};
use tar::{Builder, EntryType, Header};
use tokio::process::Command;

/// Where containerd reads the name of an image in an archive.
const NAME: &str = "io.containerd.image.name";

/// Files of an image, as a tar file in memory.
pub(crate) struct Layer {
    tar: Builder<Vec<u8>>,
    folders: BTreeSet<PathBuf>,
}

impl Layer {
    pub(crate) fn new() -> Self {
        Self { tar: Builder::new(Vec::new()), folders: BTreeSet::new() }
    }

    /// A file of this machine, under its own path or another.
    pub(crate) fn file(&mut self, from: &Path, to: &str) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.bytes(&content, to)
    }

    pub(crate) fn bytes(&mut self, content: &[u8], to: &str) -> Result<()> {
        self.add(EntryType::Regular, to, 0o755, content, None)
    }

    pub(crate) fn link(&mut self, target: &str, to: &str) -> Result<()> {
        self.add(EntryType::Symlink, to, 0o777, &[], Some(target))
    }

    /// A folder that everybody may write to.
    pub(crate) fn scratch(&mut self, to: &str) -> Result<()> {
        self.folders.insert(inside(to).to_owned());
        self.add(EntryType::Directory, to, 0o1777, &[], None)
    }

    /// The tar file.
    pub(crate) fn finish(self) -> Result<Vec<u8>> {
        self.tar.into_inner().context("cannot end a layer")
    }

    fn add(&mut self, kind: EntryType, to: &str, mode: u32, content: &[u8], target: Option<&str>) -> Result<()> {
        let path = inside(to);
        let parents: Vec<_> = path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()).collect();
        for parent in parents.into_iter().rev() {
            if self.folders.insert(parent.to_owned()) {
                self.append(EntryType::Directory, parent, 0o755, &[], None)?;
            }
        }
        Ok(self.append(kind, path, mode, content, target)?)
    }

    fn append(
        &mut self,
        kind: EntryType,
        path: &Path,
        mode: u32,
        content: &[u8],
        target: Option<&str>,
    ) -> std::io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        match target {
            Some(target) => self.tar.append_link(&mut header, path, target),
            None => self.tar.append_data(&mut header, path, content),
        }
    }
}

fn inside(path: &str) -> &Path {
    Path::new(path.trim_start_matches('/'))
}

/// The shared libraries that a program is loaded with, each under the path it is looked for at. A static program has none.
pub(crate) async fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let mut command = Command::new("ldd");
    let output = command.arg(program).kill_on_drop(true).output().await.context("cannot run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if text.contains("not found") {
        bail!("{} lacks libraries on this machine: {}", program.display(), text.trim());
    }
    // `libm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x…)`, and the loader without an arrow.
    let path = |line: &str| {
        let line = line.trim();
        let found = line.split_once(" => ").map_or(line, |(_, found)| found);
        found.starts_with('/').then(|| PathBuf::from(found.split(" (").next().unwrap_or(found)))
    };
    Ok(text.lines().filter_map(path).collect())
}

/// What a container runs.
pub(super) enum Start<'a> {
    /// This, with a pod's `args`.
    Entrypoint(&'a str),
    /// This, unless a pod's `args` say something else.
    Command(&'a [&'a str]),
}

/// An image under way.
pub(super) struct Image<'a> {
    pub(super) name: String,
    pub(super) start: Start<'a>,
    /// Of [`Archive::layer`].
    pub(super) layers: Vec<Value>,
}

/// An OCI archive under way.
pub(super) struct Archive {
    tar: Builder<File>,
    manifests: Vec<Value>,
}

impl Archive {
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { tar: Builder::new(file), manifests: Vec::new() })
    }

    /// Writes a layer and gives its descriptor.
    pub(super) fn layer(&mut self, layer: Layer) -> Result<Value> {
        self.blob("application/vnd.oci.image.layer.v1.tar", &layer.finish()?)
    }

    pub(super) fn image(&mut self, image: Image<'_>) -> Result<()> {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let mut start = match image.start {
            Start::Entrypoint(program) => json!({ "Entrypoint": [program] }),
            Start::Command(command) => json!({ "Cmd": command }),
        };
        if let Some(start) = start.as_object_mut() {
            start.insert("Env".to_owned(), json!(["PATH=/usr/local/bin:/usr/bin:/bin"]));
        }
        let digests: Vec<_> = image.layers.iter().filter_map(|layer| layer.get("digest")).collect();
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "config": start,
            "rootfs": { "type": "layers", "diff_ids": digests },
        });
        let config = self.blob("application/vnd.oci.image.config.v1+json", &serde_json::to_vec(&config)?)?;
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": image.layers });
        let mut manifest = self.blob(kind, &serde_json::to_vec(&manifest)?)?;
        if let Some(manifest) = manifest.as_object_mut() {
            manifest.insert("annotations".to_owned(), json!({ NAME: image.name }));
        }
        self.manifests.push(manifest);
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<()> {
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": self.manifests,
        });
        self.file("index.json", &serde_json::to_vec(&index)?)?;
        self.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        self.tar.into_inner().and_then(|mut file| file.flush()).context("cannot end an image archive")
    }

    fn blob(&mut self, kind: &str, content: &[u8]) -> Result<Value> {
        let digest = Sha256::digest(content).iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        self.file(&format!("blobs/sha256/{digest}"), content)?;
        Ok(json!({ "mediaType": kind, "digest": format!("sha256:{digest}"), "size": content.len() }))
    }

    fn file(&mut self, path: &str, content: &[u8]) -> Result<()> {
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        self.tar.append_data(&mut header, path, content).with_context(|| format!("cannot write {path} of an image"))
    }
}
