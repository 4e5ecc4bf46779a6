//! The lab: the real parts (etcd, kube-apiserver, kube-controller-manager, nats-server, helm, kubectl) and the
//! product's services as processes of this machine.
//!
//! ```text
//!   parts ──► cluster (etcd, kube-apiserver, kube-controller-manager) ──► helm install of the chart
//!                                                                            │ read back from the API server
//!   control-plane (a plain process outside the cluster)                      ▼
//!        ▲───────────── link ──────────── workload: one process per container, started as a kubelet would
//! ```
//!
//! Without a node, the lab plays kubelet (env, volumes, tokens), DNS and kube-proxy (Service names become local ports).
//! So what runs is what the chart renders, and nothing about a service is configured here. With one ([`Options::node`])
//! the chart's pods run as they are. [`Lab`] is what tests and benches use; `cargo lab` is [`cli`] over it. The lab
//! knows the services only by their charts, binaries and HTTP endpoints.

mod certificates;
pub mod cli;
mod cluster;
mod control_plane;
mod debian;
mod docker;
mod exec;
mod folders;
mod forward;
mod kubeconfig;
mod lab;
mod lines;
mod node;
mod parts;
mod pki;
mod ports;
mod process;
mod progress;
mod run;
mod services;
mod state;
mod tokens;
mod wait;
mod workload;

pub use crate::{
    certificates::{Certificate, Certificates},
    debian::{install as install_debian_packages, unpack as unpack_debian_package},
    docker::Docker,
    exec::{Ended, Exec},
    folders::workspace,
    forward::Forward,
    lab::{Containers, Lab, Options},
    lines::Lines,
    node::{NEXT_TOOLS_IMAGE, TOOLS_IMAGE},
    parts::{Found, PARTS, Part, Parts, Use},
    ports::free as free_ports,
    process::{Health, Process, Spawner, Spec},
    progress::Progress,
    run::{Output, Tool},
    services::built as services,
    wait::until,
};
