//! Every part: what it consists of, and which versions do.

use super::{Binary, Build, Part, Use, version::Fit};

const KUBERNETES: Fit = Fit::Minor(1, 36);
const KUBERNETES_VERSION: &str = "-X k8s.io/component-base/version.gitVersion=v1.36.3 \
                                  -X k8s.io/component-base/version.gitMajor=1 \
                                  -X k8s.io/component-base/version.gitMinor=36";

/// A program that is run in the one version that is known to work with the rest of the node.
const fn pinned(name: &'static str, package: &'static str, built_as: &'static str) -> Binary {
    Binary { name, package, built_as, version: None }
}

/// Every part, the slowest to build first.
pub static PARTS: &[Part] = &[
    Part {
        name: "kubernetes",
        module: "kubernetes",
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
        ldflags: KUBERNETES_VERSION,
        build: Build::Pure,
        of: Use::Lab,
    },
    Part {
        name: "helm",
        module: "helm",
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
        build: Build::Pure,
        of: Use::Lab,
    },
    Part {
        name: "etcd",
        module: "etcd",
        version: "3.6.16",
        binaries: &[Binary {
            name: "etcd",
            package: "go.etcd.io/etcd/server/v3",
            built_as: "server",
            version: Some((&["--version"], Fit::Minor(3, 6))),
        }],
        ldflags: "",
        build: Build::Pure,
        of: Use::Lab,
    },
    Part {
        name: "nats-server",
        module: "nats-server",
        version: "2.15.2",
        binaries: &[Binary {
            name: "nats-server",
            package: "github.com/nats-io/nats-server/v2",
            built_as: "nats-server",
            version: Some((&["--version"], Fit::AtLeast(2, 11))),
        }],
        ldflags: "",
        build: Build::Pure,
        of: Use::Lab,
    },
    Part {
        name: "kubernetes-node",
        module: "kubernetes",
        version: "1.36.3",
        binaries: &[
            pinned("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler", "kube-scheduler"),
            pinned("kubelet", "k8s.io/kubernetes/cmd/kubelet", "kubelet"),
            pinned("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy", "kube-proxy"),
        ],
        ldflags: KUBERNETES_VERSION,
        build: Build::Pure,
        of: Use::Node,
    },
    Part {
        name: "docker-compose",
        module: "docker-compose",
        version: "2.40.3",
        binaries: &[Binary {
            name: "docker-compose",
            package: "github.com/docker/compose/v2/cmd",
            built_as: "cmd",
            version: Some((&["version", "--short"], Fit::Minor(2, 40))),
        }],
        ldflags: "-X github.com/docker/compose/v2/internal.Version=v2.40.3",
        build: Build::Pure,
        of: Use::Tests,
    },
    Part {
        name: "kube-router",
        module: "kube-router",
        version: "2.1.0",
        binaries: &[pinned("kube-router", "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router", "kube-router")],
        ldflags: "",
        build: Build::Pure,
        of: Use::Node,
    },
    Part {
        name: "metrics-server",
        module: "metrics-server",
        version: "0.8.0",
        binaries: &[pinned("metrics-server", "sigs.k8s.io/metrics-server/cmd/metrics-server", "metrics-server")],
        ldflags: "",
        build: Build::Pure,
        of: Use::Node,
    },
    Part {
        name: "coredns",
        module: "coredns",
        version: "1.14.7",
        binaries: &[pinned("coredns", "github.com/coredns/coredns", "coredns")],
        ldflags: "",
        build: Build::Pure,
        of: Use::Node,
    },
    Part {
        name: "kubectl-1.33",
        module: "kubectl-1.33",
        version: "1.33.13",
        binaries: &[Binary {
            name: "kubectl-1.33",
            package: "k8s.io/kubernetes/cmd/kubectl",
            built_as: "kubectl",
            version: Some((&["version", "--client"], Fit::Minor(1, 33))),
        }],
        ldflags: "-X k8s.io/component-base/version.gitVersion=v1.33.13 -X k8s.io/component-base/version.gitMajor=1 \
                  -X k8s.io/component-base/version.gitMinor=33",
        build: Build::Pure,
        of: Use::Tests,
    },
    Part {
        name: "containerd",
        module: "containerd",
        version: "2.4.2",
        binaries: &[
            pinned("containerd", "github.com/containerd/containerd/v2/cmd/containerd", "containerd"),
            pinned(
                "containerd-shim-runc-v2",
                "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
                "containerd-shim-runc-v2",
            ),
            pinned("ctr", "github.com/containerd/containerd/v2/cmd/ctr", "ctr"),
        ],
        ldflags: "-X github.com/containerd/containerd/v2/version.Version=v2.4.2",
        build: Build::Pure,
        of: Use::Node,
    },
    Part {
        name: "runc",
        module: "runc",
        version: "1.5.2",
        binaries: &[pinned("runc", "github.com/opencontainers/runc", "runc")],
        ldflags: "-X main.version=1.5.2",
        // Without seccomp, every pod with a profile fails.
        build: Build::C { tags: "seccomp", packages: &["gcc", "libc6-dev", "libseccomp-dev", "pkg-config"] },
        of: Use::Node,
    },
    Part {
        name: "cni-plugins",
        module: "cni-plugins",
        version: "1.9.1",
        binaries: &[
            pinned("bridge", "github.com/containernetworking/plugins/plugins/main/bridge", "bridge"),
            pinned("loopback", "github.com/containernetworking/plugins/plugins/main/loopback", "loopback"),
            pinned("host-local", "github.com/containernetworking/plugins/plugins/ipam/host-local", "host-local"),
            pinned("portmap", "github.com/containernetworking/plugins/plugins/meta/portmap", "portmap"),
        ],
        ldflags: "",
        build: Build::Pure,
        of: Use::Node,
    },
    Part {
        name: "konnectivity",
        module: "konnectivity",
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
        build: Build::Pure,
        of: Use::Benches,
    },
    Part {
        name: "chisel",
        module: "chisel",
        version: "1.11.3",
        binaries: &[Binary {
            name: "chisel",
            package: "github.com/jpillora/chisel",
            built_as: "chisel",
            version: Some((&["--version"], Fit::Minor(1, 11))),
        }],
        ldflags: "-X github.com/jpillora/chisel/share.BuildVersion=1.11.3",
        build: Build::Pure,
        of: Use::Benches,
    },
    Part {
        name: "frp",
        module: "frp",
        version: "0.65.0",
        binaries: &[
            pinned("frps", "github.com/fatedier/frp/cmd/frps", "frps"),
            pinned("frpc", "github.com/fatedier/frp/cmd/frpc", "frpc"),
        ],
        ldflags: "",
        build: Build::Pure,
        of: Use::Benches,
    },
    Part {
        name: "rathole",
        module: "rathole",
        version: "0.5.0",
        binaries: &[pinned("rathole", "rathole", "rathole")],
        ldflags: "",
        build: Build::Rust,
        of: Use::OneBench,
    },
    Part {
        name: "yamux-peer",
        module: "yamux-peer",
        version: "0.1.2",
        binaries: &[Binary { name: "yamux-peer", package: ".", built_as: "yamux-peer", version: None }],
        ldflags: "",
        build: Build::Pure,
        of: Use::Tests,
    },
];
