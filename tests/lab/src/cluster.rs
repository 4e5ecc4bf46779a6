//! The Kubernetes control plane: etcd, kube-apiserver, kube-controller-manager.

use crate::{
    kubeconfig::{self, Login, Server},
    parts::Parts,
    pki::{Authority, Pair, Subject},
    ports,
    process::{Health, Spec},
};
use anyhow::{Context, Result};
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

/// The user that the lab's kubeconfigs are for, and the group that is bound to cluster-admin.
pub(crate) const USER: &str = "lab";
pub(crate) const GROUP: &str = "lab:admins";

/// The node's name, where there is one.
pub(crate) const NODE: &str = "lab";
pub(crate) const POD_IPS: &str = "10.244.0.0/24";
pub(crate) const CLUSTER_IPS: &str = "10.96.0.0/16";
const API_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
pub(crate) const DNS_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

const GRACE: Duration = Duration::from_secs(10);
/// What the API server is called where it passes requests on to others.
const FRONT_PROXY: &str = "front-proxy-client";

/// Where a control plane listens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Site {
    address: Ipv4Addr,
    ports: [u16; 5],
    /// Whether there are pods, which have to be reached and to reach the API server.
    node: bool,
}

impl Site {
    /// On this machine, with nothing but what connects to it.
    pub(crate) fn loopback() -> Result<Self> {
        Ok(Self { address: Ipv4Addr::LOCALHOST, ports: ports::free()?, node: false })
    }

    /// On a machine of its own: the ports are those of everywhere.
    pub(crate) fn machine(address: Ipv4Addr, node: bool) -> Self {
        Self { address, ports: [2379, 2380, 2381, 6443, 10257], node }
    }
}

/// The processes of a control plane, in the order they start, and what it takes to reach it.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) etcd: Spec,
    pub(crate) apiserver: Spec,
    pub(crate) controller_manager: Spec,
    pub(crate) server: Server,
    pub(crate) address: Ipv4Addr,
    /// Signs the cluster's certificates.
    pub(crate) authority: Authority,
    /// `system:masters`, for what the lab itself does.
    pub(crate) admin_kubeconfig: PathBuf,
    /// The lab's user, straight to the API server.
    pub(crate) direct_kubeconfig: PathBuf,
}

struct Pki {
    authority: Authority,
    apiserver: Pair,
    controller_manager: Pair,
    admin: Pair,
    user: Pair,
    service_account: (PathBuf, PathBuf),
}

impl Cluster {
    /// Makes certificates and kubeconfigs in `folder` and says how to start the processes.
    pub(crate) fn prepare(folder: &Path, parts: &Parts, traces: Option<SocketAddr>, site: Site) -> Result<Self> {
        let Site { address, ports: [etcd_client, etcd_peer, etcd_metrics, api, manager], node } = site;
        let pki_folder = folder.join("pki");
        let pki = Pki::create(&pki_folder, address)?;
        let server = Server { url: format!("https://{address}:{api}"), host: address.to_string(), port: api };
        let write = |name: &str, user: &str, pair: &Pair| -> Result<PathBuf> {
            let path = folder.join(format!("{name}.kubeconfig"));
            kubeconfig::write(&path, &server.url, &pki.authority.ca.cert_pem, user, &Login::Certificate(pair))?;
            Ok(path)
        };
        let manager_kubeconfig = write("kube-controller-manager", "kube-controller-manager", &pki.controller_manager)?;
        let spec = |name: &str, args: Vec<String>, health: Health| -> Result<Spec> {
            Ok(Spec {
                name: name.to_owned(),
                binary: parts.path(name)?.to_owned(),
                args,
                env: BTreeMap::new(),
                folder: folder.to_owned(),
                health,
                grace: GRACE,
            })
        };
        let mut apiserver = apiserver_args(&pki, etcd_client, &site, api);
        let mut controller_manager = manager_args(folder, &pki, &manager_kubeconfig, address, manager);
        if node {
            apiserver.extend(reach_pods(&pki_folder, &pki.authority)?);
            controller_manager.extend([format!("--cluster-cidr={POD_IPS}"), "--allocate-node-cidrs".to_owned()]);
        }
        if let Some(collector) = traces {
            apiserver.push(format!("--tracing-config-file={}", tracing_config(folder, collector)?.display()));
        }
        let etcd_health = format!("http://{address}:{etcd_metrics}");
        Ok(Self {
            etcd: spec(
                "etcd",
                etcd_args(folder, etcd_client, etcd_peer, &etcd_health),
                Health::Http(format!("{etcd_health}/readyz")),
            )?,
            apiserver: spec("kube-apiserver", apiserver, Health::Http(format!("{}/readyz", server.url)))?,
            controller_manager: spec(
                "kube-controller-manager",
                controller_manager,
                Health::Http(format!("https://{address}:{manager}/healthz")),
            )?,
            admin_kubeconfig: write("admin", "admin", &pki.admin)?,
            direct_kubeconfig: write("direct", USER, &pki.user)?,
            server,
            address,
            authority: pki.authority,
        })
    }
}

impl Pki {
    fn create(folder: &Path, address: Ipv4Addr) -> Result<Self> {
        let authority = Authority::create(folder, "lab-ca").context("cannot make the lab's certificates")?;
        let issue = |file: &str, name: &str, organisation: Option<&str>| {
            authority.issue(file, &Subject { name, organisation }, &[], &[])
        };
        Ok(Self {
            apiserver: issue_api(&authority, address)?,
            controller_manager: issue("controller-manager", "system:kube-controller-manager", None)?,
            admin: issue("admin", "admin", Some("system:masters"))?,
            user: issue("lab-user", USER, Some(GROUP))?,
            service_account: authority.service_account_keys()?,
            authority,
        })
    }
}

/// A new certificate in the API server's files.
pub(crate) fn issue_api(authority: &Authority, address: Ipv4Addr) -> Result<Pair> {
    let subject = Subject { name: "kube-apiserver", organisation: None };
    let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"];
    authority.issue("apiserver", &subject, &names, &[API_IP, address])
}

fn etcd_args(folder: &Path, client: u16, peer: u16, metrics: &str) -> Vec<String> {
    let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
    vec![
        format!("--data-dir={}", folder.join("etcd").display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        format!("--listen-metrics-urls={metrics}"),
        // The lab's data need not survive the machine.
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ]
}

fn tracing_config(folder: &Path, collector: SocketAddr) -> Result<PathBuf> {
    let path = folder.join("tracing.yaml");
    let all = "samplingRatePerMillion: 1000000";
    let text =
        format!("apiVersion: apiserver.config.k8s.io/v1\nkind: TracingConfiguration\nendpoint: {collector}\n{all}\n");
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn apiserver_args(pki: &Pki, etcd: u16, site: &Site, port: u16) -> Vec<String> {
    let (sa_private, sa_public) = &pki.service_account;
    let address = site.address;
    // A loopback address is not allowed in Endpoints, and without a node there are no pods to reach it.
    let endpoints = if site.node { "lease" } else { "none" };
    vec![
        format!("--etcd-servers=http://127.0.0.1:{etcd}"),
        format!("--secure-port={port}"),
        format!("--bind-address={address}"),
        format!("--advertise-address={address}"),
        format!("--endpoint-reconciler-type={endpoints}"),
        format!("--tls-cert-file={}", pki.apiserver.cert_file.display()),
        format!("--tls-private-key-file={}", pki.apiserver.key_file.display()),
        format!("--client-ca-file={}", pki.authority.ca.cert_file.display()),
        format!("--service-account-key-file={}", sa_public.display()),
        format!("--service-account-signing-key-file={}", sa_private.display()),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        format!("--service-cluster-ip-range={CLUSTER_IPS}"),
        "--allow-privileged=true".to_owned(),
        // A restart in a fault test need not wait for watches to end by themselves.
        "--shutdown-delay-duration=0s".to_owned(),
    ]
}

/// What the API server needs to call kubelets (exec, logs, port-forward) and APIs that are pods (metrics).
fn reach_pods(folder: &Path, authority: &Authority) -> Result<Vec<String>> {
    let client = Subject { name: "kube-apiserver-kubelet-client", organisation: Some("system:masters") };
    let client = authority.issue("kubelet-client", &client, &[], &[])?;
    // Whoever has a certificate of this one may say who the user is.
    let front = Authority::create(&folder.join("front-proxy"), "lab-front-proxy-ca")?;
    let proxy = front.issue(FRONT_PROXY, &Subject { name: FRONT_PROXY, organisation: None }, &[], &[])?;
    Ok(vec![
        format!("--kubelet-certificate-authority={}", authority.ca.cert_file.display()),
        format!("--kubelet-client-certificate={}", client.cert_file.display()),
        format!("--kubelet-client-key={}", client.key_file.display()),
        "--kubelet-preferred-address-types=InternalIP,Hostname".to_owned(),
        format!("--requestheader-client-ca-file={}", front.ca.cert_file.display()),
        format!("--requestheader-allowed-names={FRONT_PROXY}"),
        "--requestheader-username-headers=X-Remote-User".to_owned(),
        "--requestheader-group-headers=X-Remote-Group".to_owned(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
        format!("--proxy-client-cert-file={}", proxy.cert_file.display()),
        format!("--proxy-client-key-file={}", proxy.key_file.display()),
    ])
}

fn manager_args(folder: &Path, pki: &Pki, kubeconfig: &Path, address: Ipv4Addr, port: u16) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--bind-address={address}"),
        format!("--secure-port={port}"),
        format!("--cert-dir={}", folder.join("pki").display()),
        format!("--service-account-private-key-file={}", pki.service_account.0.display()),
        format!("--root-ca-file={}", pki.authority.ca.cert_file.display()),
        "--use-service-account-credentials".to_owned(),
        "--leader-elect=false".to_owned(),
        // With the default of 20 it takes seconds until every controller has its credentials.
        "--kube-api-qps=1000".to_owned(),
        "--kube-api-burst=1000".to_owned(),
        format!("--cluster-signing-cert-file={}", pki.authority.ca.cert_file.display()),
        format!("--cluster-signing-key-file={}", pki.authority.ca.key_file.display()),
    ]
}
