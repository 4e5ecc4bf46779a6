//! The real parts the lab runs: which, which version, and where each came from.
//!
//! A binary is taken from `$KUBEBUILDER_ASSETS` or `PATH` when its version fits, else built from its pinned Go module under
//! `tests/lab/parts/<part>` and cached by the content of everything that decides the result.

mod build;
mod find;
mod version;

use crate::progress::Progress;
use anyhow::{Context, Result, anyhow};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{sync::Semaphore, task::JoinSet};
use version::{Fit, Version};

/// Something the lab needs, one Go module each.
#[derive(Debug)]
pub struct Part {
    /// Its name, and that of its folder under `tests/lab/parts`.
    pub name: &'static str,
    /// The version its go.mod names.
    pub version: &'static str,
    binaries: &'static [Binary],
    /// Linker flags besides `-s -w`, so that the binaries know their own version.
    ldflags: &'static str,
    /// Whether only benches need it.
    pub only_bench: bool,
}

/// One program of a part.
#[derive(Debug)]
struct Binary {
    name: &'static str,
    package: &'static str,
    /// What `go build` calls it.
    built_as: &'static str,
    /// How it says its version, and which versions do; `None` where it cannot say.
    version: Option<(&'static [&'static str], Fit)>,
}

const KUBERNETES: Fit = Fit::Minor(1, 36);

/// Every part, the slowest to build first.
pub static PARTS: &[Part] = &[
    Part {
        name: "kubernetes",
        version: "1.36.3",
        binaries: &[
            Binary {
                name: "kube-apiserver",
                package: "k8s.io/kubernetes/cmd/kube-apiserver",
                built_as: "kube-apiserver",
                version: Some((&["--version"], KUBERNETES)),
            },
            Binary {
                name: "kube-controller-manager",
                package: "k8s.io/kubernetes/cmd/kube-controller-manager",
                built_as: "kube-controller-manager",
                version: Some((&["--version"], KUBERNETES)),
            },
            Binary {
                name: "kubectl",
                package: "k8s.io/kubernetes/cmd/kubectl",
                built_as: "kubectl",
                version: Some((&["version", "--client"], KUBERNETES)),
            },
        ],
        ldflags: "-X k8s.io/component-base/version.gitVersion=v1.36.3 -X k8s.io/component-base/version.gitMajor=1 \
                  -X k8s.io/component-base/version.gitMinor=36",
        only_bench: false,
    },
    Part {
        name: "helm",
        version: "3.22.0",
        binaries: &[Binary {
            name: "helm",
            package: "helm.sh/helm/v3/cmd/helm",
            built_as: "helm",
            version: Some((&["version", "--short"], Fit::AtLeast(3, 17))),
        }],
        // Without these it takes the oldest Kubernetes for the one to render and lint for.
        ldflags: "-X helm.sh/helm/v3/internal/version.version=v3.22.0 \
                  -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=36 \
                  -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor=36",
        only_bench: false,
    },
    Part {
        name: "etcd",
        version: "3.6.16",
        binaries: &[Binary {
            name: "etcd",
            package: "go.etcd.io/etcd/server/v3",
            built_as: "server",
            version: Some((&["--version"], Fit::Minor(3, 6))),
        }],
        ldflags: "",
        only_bench: false,
    },
    Part {
        name: "nats-server",
        version: "2.15.2",
        binaries: &[Binary {
            name: "nats-server",
            package: "github.com/nats-io/nats-server/v2",
            built_as: "nats-server",
            version: Some((&["--version"], Fit::AtLeast(2, 11))),
        }],
        ldflags: "",
        only_bench: false,
    },
    Part {
        name: "konnectivity",
        version: "0.34.0",
        binaries: &[
            Binary {
                name: "konnectivity-server",
                package: "sigs.k8s.io/apiserver-network-proxy/cmd/server",
                built_as: "server",
                version: None,
            },
            Binary {
                name: "konnectivity-agent",
                package: "sigs.k8s.io/apiserver-network-proxy/cmd/agent",
                built_as: "agent",
                version: None,
            },
        ],
        ldflags: "",
        only_bench: true,
    },
    Part {
        name: "chisel",
        version: "1.11.3",
        binaries: &[Binary {
            name: "chisel",
            package: "github.com/jpillora/chisel",
            built_as: "chisel",
            version: Some((&["--version"], Fit::Minor(1, 11))),
        }],
        ldflags: "-X github.com/jpillora/chisel/share.BuildVersion=1.11.3",
        only_bench: true,
    },
];

/// A binary and where it is from.
#[derive(Clone, Debug)]
pub struct Found {
    /// What the lab calls it.
    pub binary: &'static str,
    /// The version it said it is, or the one it was built from.
    pub version: String,
    /// `KUBEBUILDER_ASSETS`, `PATH`, `built now` or `cache`.
    pub source: &'static str,
    /// The file.
    pub path: PathBuf,
}

/// The parts at hand, by binary name.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    found: BTreeMap<&'static str, Found>,
}

impl Parts {
    /// Finds or builds the parts: all of them, or all but those that only benches need.
    ///
    /// # Errors
    /// When a part is neither found nor can be built; the message ends with what its build said.
    pub async fn get(with_bench: bool, progress: &Progress) -> Result<Self> {
        let mut looks = JoinSet::new();
        for (at, part) in PARTS.iter().enumerate().filter(|(_, part)| with_bench || !part.only_bench) {
            looks.spawn(async move { part.at_hand().await.map(|found| (at, part, found)) });
        }
        let mut looks = looks.join_all().await.into_iter().collect::<Result<Vec<_>>>()?;
        looks.sort_by_key(|(at, ..)| *at);

        let mut parts = Self::default();
        let mut builds = JoinSet::new();
        let at_once = Arc::new(Semaphore::new(build::parallel()));
        for (_, part, found) in looks {
            match found {
                Some(found) => parts.add(found),
                None => {
                    let turn = Arc::clone(&at_once).acquire_owned().await.context("the builds were called off")?;
                    let progress = progress.clone();
                    builds.spawn(async move {
                        let _turn = turn;
                        part.build(&progress).await
                    });
                }
            }
        }
        while let Some(found) = builds.join_next().await {
            parts.add(found.context("a part's build ended early")??);
        }
        Ok(parts)
    }

    fn add(&mut self, found: Vec<Found>) {
        self.found.extend(found.into_iter().map(|found| (found.binary, found)));
    }

    /// The file of a binary.
    ///
    /// # Errors
    /// When the binary is not among the parts that were asked for.
    pub fn path(&self, binary: &str) -> Result<&Path> {
        self.found
            .get(binary)
            .map(|found| found.path.as_path())
            .ok_or_else(|| anyhow!("no part has a binary {binary:?}"))
    }

    /// Every binary.
    pub fn iter(&self) -> impl Iterator<Item = &Found> {
        self.found.values()
    }

    /// `PATH` with the parts' folders in front, for programs that look their tools up themselves.
    ///
    /// # Errors
    /// When a folder's name has a colon.
    pub fn search_path(&self) -> Result<OsString> {
        let mut folders: Vec<PathBuf> = Vec::new();
        for folder in self.found.values().filter_map(|found| found.path.parent()) {
            if !folders.iter().any(|known| known == folder) {
                folders.push(folder.to_owned());
            }
        }
        folders.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        Ok(std::env::join_paths(folders)?)
    }
}

impl Part {
    /// Its binaries, when they are here already.
    async fn at_hand(&'static self) -> Result<Option<Vec<Found>>> {
        let mut found = Vec::new();
        for binary in self.binaries {
            match find::installed(binary).await {
                Some(hit) => found.push(hit),
                None => {
                    let cached = build::cached(self).await.with_context(|| self.failure())?;
                    return Ok(cached.map(|folder| self.found_in(&folder, "cache")));
                }
            }
        }
        Ok(Some(found))
    }

    async fn build(&'static self, progress: &Progress) -> Result<Vec<Found>> {
        let (folder, source) = build::build_once(self, progress).await.with_context(|| self.failure())?;
        Ok(self.found_in(&folder, source))
    }

    fn found_in(&self, folder: &Path, source: &'static str) -> Vec<Found> {
        let version = self.version.to_owned();
        let found = |binary: &Binary| Found {
            binary: binary.name,
            version: version.clone(),
            source,
            path: folder.join(binary.name),
        };
        self.binaries.iter().map(found).collect()
    }

    fn failure(&self) -> String {
        format!("cannot get {} {}", self.name, self.version)
    }
}
