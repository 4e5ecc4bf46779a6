//! The order of the sources, with programs that only say a version.

use super::{Binary, Build, Part, Places, Use, version::Fit};
use crate::progress::Progress;
use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

static PART: Part = Part {
    name: "thing",
    module: "thing",
    version: "2.15.2",
    binaries: &[Binary {
        name: "thing",
        package: "example.test/thing",
        built_as: "thing",
        version: Some((&["--version"], Fit::AtLeast(2, 11))),
    }],
    ldflags: "",
    build: Build::Pure,
    of: Use::Lab,
};

static RUST_PART: Part = Part { name: "rusty", module: "rusty", build: Build::Rust, ..PART };

/// `cargo build --release --locked --target-dir FOLDER`.
const CARGO: &str = r#"[ "$2 $3" = "--release --locked" ] || exit 1
mkdir -p "$5/release"; printf '#!/bin/sh\necho v2.15.2\n' >"$5/release/thing"; chmod +x "$5/release/thing""#;
/// `go build -o FOLDER/`, the way the lab calls it.
const GO: &str = r#"[ "$1" = env ] && exec echo go1.26.8
for a in "$@"; do case $a in */building/) printf '#!/bin/sh\necho v2.15.2\n' >"$a/thing"; chmod +x "$a/thing";; esac; done"#;
const GO_THAT_FAILS: &str = r#"[ "$1" = env ] && exec echo go1.26.8
echo "no such module" >&2; exit 1"#;

struct World {
    root: PathBuf,
    places: Places,
}

impl World {
    fn new() -> Self {
        static WORLDS: AtomicU32 = AtomicU32::new(0);
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("lab-parts-{}-{number}", std::process::id()));
        let places = Places {
            assets: Some(root.join("assets")),
            path: vec![root.join("old"), root.join("path")],
            modules: root.join("modules"),
            cache: root.join("cache"),
        };
        let world = Self { root, places };
        world.write("modules/thing/go.mod", "module thing");
        world.write("modules/thing/go.sum", "");
        world
    }

    fn write(&self, path: &str, text: &str) {
        let file = self.root.join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, text).unwrap();
    }

    /// Written by another process: one of ours that forks meanwhile would hold the file open, and what is open for writing cannot be run.
    fn program(&self, path: &str, script: &str) {
        let file = self.root.join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        let write = r#"printf '#!/bin/sh\n%s\n' "$2" >"$1" && chmod +x "$1""#;
        let status = Command::new("sh").args(["-c", write, "sh"]).arg(file).arg(script).status().unwrap();
        assert!(status.success());
    }

    /// A Python whose pip installs a program of that version.
    fn python(&self, version: &str) {
        let bin = r#"while [ "$1" != --target ]; do shift; done; mkdir -p "$2/bin"; cd "$2/bin""#;
        self.program("path/python3", &format!("{bin}; printf '#!/bin/sh\\necho {version}\\n' >thing; chmod +x thing"));
    }

    /// Source and version of what is found, or made; or why not.
    async fn got(&self) -> Result<(&'static str, String), String> {
        self.got_of(&PART).await
    }

    async fn got_of(&self, part: &Part) -> Result<(&'static str, String), String> {
        let found = match part.at_hand(&self.places).await {
            Ok(None) => part.make(&self.places, &Progress::slow_only()).await,
            Ok(Some(found)) => Ok(found),
            Err(error) => Err(error),
        };
        let found = found.map_err(|error| format!("{error:#}"))?.remove(0);
        assert!(found.path.is_file());
        Ok((found.source, found.version))
    }

    fn remove(&self, path: impl AsRef<Path>) {
        std::fs::remove_file(self.root.join(path)).unwrap();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.root));
    }
}

fn is(source: &'static str, version: &str) -> Result<(&'static str, String), String> {
    Ok((source, version.to_owned()))
}

#[tokio::test]
async fn what_is_installed_comes_first_when_it_fits() {
    let world = World::new();
    world.program("old/thing", "echo v2.9.10");
    world.program("path/thing", "echo v2.12.1");
    assert_eq!(world.got().await, is("PATH", "2.12.1"));
    world.program("assets/thing", "echo v2.11.0");
    assert_eq!(world.got().await, is("KUBEBUILDER_ASSETS", "2.11.0"));
}

#[tokio::test]
async fn a_warm_cache_needs_no_go() {
    let world = World::new();
    world.program("path/go", GO);
    assert_eq!(world.got().await, is("built now", "2.15.2"));
    world.remove("path/go");
    assert_eq!(world.got().await, is("cache", "2.15.2"));
    world.write("modules/thing/go.sum", "another sum");
    let missing = world.got().await.unwrap_err();
    assert!(missing.contains("cannot get thing 2.15.2: Go is missing") && missing.contains("curl "), "{missing}");
}

#[tokio::test]
async fn a_rust_package_is_built_with_the_versions_of_its_lock_file() {
    let world = World::new();
    for file in ["Cargo.toml", "Cargo.lock", "src/main.rs"] {
        world.write(&format!("modules/rusty/{file}"), "one");
    }
    world.program("path/cargo", CARGO);
    assert_eq!(world.got_of(&RUST_PART).await, is("built now", "2.15.2"));
    world.remove("path/cargo");
    assert_eq!(world.got_of(&RUST_PART).await, is("cache", "2.15.2"));
    world.write("modules/rusty/Cargo.lock", "another");
    let missing = world.got_of(&RUST_PART).await.unwrap_err();
    assert!(missing.contains("Cargo is missing"), "{missing}");
}

#[tokio::test]
async fn the_package_is_for_when_go_does_not_help() {
    let world = World::new();
    world.write("modules/thing/requirements.txt", "thing==2.15.1");
    world.python("v2.15.1");
    world.program("path/go", GO);
    assert_eq!(world.got().await, is("built now", "2.15.2"));
    std::fs::remove_dir_all(&world.places.cache).unwrap();

    world.program("path/go", GO_THAT_FAILS);
    assert_eq!(world.got().await, is("package", "2.15.1"));
    world.remove("path/go");
    world.remove("path/python3");
    assert_eq!(world.got().await, is("cache", "2.15.1"));
}

#[tokio::test]
async fn a_package_of_a_version_that_does_not_fit_is_refused() {
    let world = World::new();
    world.write("modules/thing/requirements.txt", "thing==2.9.10");
    world.python("v2.9.10");
    let refused = world.got().await.unwrap_err();
    assert!(refused.contains("Go is missing") && refused.contains("does not fit"), "{refused}");
}
