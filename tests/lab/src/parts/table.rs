//! Every part: what it consists of, and which versions do.

use super::{Binary, Part, version::Fit};

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
        extra: false,
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
        extra: false,
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
        extra: false,
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
        extra: false,
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
        extra: true,
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
        extra: true,
    },
    Part {
        name: "yamux-peer",
        version: "0.1.2",
        binaries: &[Binary { name: "yamux-peer", package: ".", built_as: "yamux-peer", version: None }],
        ldflags: "",
        extra: true,
    },
];
