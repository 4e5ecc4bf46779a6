//! The Kubernetes control plane: etcd, kube-apiserver, kube-controller-manager. No nodes.

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

const GRACE: Duration = Duration::from_secs(10);

/// The processes of a control plane, in the order they start, and what it takes to reach it.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) etcd: Spec,
    pub(crate) apiserver: Spec,
    pub(crate) controller_manager: Spec,
    pub(crate) server: Server,
    /// `system:masters`, for what the lab itself does.
    pub(crate) admin_kubeconfig: PathBuf,
    /// The lab's user, straight to the API server.
    pub(crate) direct_kubeconfig: PathBuf,
}

struct Pki {
    ca: Pair,
    apiserver: Pair,
    controller_manager: Pair,
    admin: Pair,
    user: Pair,
    service_account: (PathBuf, PathBuf),
}

impl Cluster {
    /// Makes certificates and kubeconfigs in `folder` and says how to start the processes.
    pub(crate) fn prepare(folder: &Path, parts: &Parts, traces: Option<SocketAddr>) -> Result<Self> {
        let pki = Pki::create(&folder.join("pki"))?;
        let [etcd_client, etcd_peer, api, manager] = ports::free()?;
        let server =
            Server { url: format!("https://127.0.0.1:{api}"), host: Ipv4Addr::LOCALHOST.to_string(), port: api };
        let write = |name: &str, user: &str, pair: &Pair| -> Result<PathBuf> {
            let path = folder.join(format!("{name}.kubeconfig"));
            kubeconfig::write(&path, &server.url, &pki.ca.cert_pem, user, &Login::Certificate(pair))?;
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
        let mut apiserver = apiserver_args(&pki, etcd_client, api);
        if let Some(collector) = traces {
            apiserver.push(format!("--tracing-config-file={}", tracing_config(folder, collector)?.display()));
        }
        Ok(Self {
            etcd: spec(
                "etcd",
                etcd_args(folder, etcd_client, etcd_peer),
                Health::Http(format!("http://127.0.0.1:{etcd_client}/readyz")),
            )?,
            apiserver: spec("kube-apiserver", apiserver, Health::Http(format!("{}/readyz", server.url)))?,
            controller_manager: spec(
                "kube-controller-manager",
                manager_args(folder, &pki, &manager_kubeconfig, manager),
                Health::Http(format!("https://127.0.0.1:{manager}/healthz")),
            )?,
            admin_kubeconfig: write("admin", "admin", &pki.admin)?,
            direct_kubeconfig: write("direct", USER, &pki.user)?,
            server,
        })
    }
}

impl Pki {
    fn create(folder: &Path) -> Result<Self> {
        let authority = Authority::create(folder).context("cannot make the lab's certificates")?;
        let issue = |file: &str, name: &str, organisation: Option<&str>| {
            authority.issue(file, &Subject { name, organisation }, &[], &[])
        };
        Ok(Self {
            apiserver: authority.issue(
                "apiserver",
                &Subject { name: "kube-apiserver", organisation: None },
                &["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"],
                &[Ipv4Addr::new(10, 96, 0, 1)],
            )?,
            controller_manager: issue("controller-manager", "system:kube-controller-manager", None)?,
            admin: issue("admin", "admin", Some("system:masters"))?,
            user: issue("lab-user", USER, Some(GROUP))?,
            service_account: authority.service_account_keys()?,
            ca: authority.ca,
        })
    }
}

fn etcd_args(folder: &Path, client: u16, peer: u16) -> Vec<String> {
    let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
    vec![
        format!("--data-dir={}", folder.join("etcd").display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
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

fn apiserver_args(pki: &Pki, etcd: u16, port: u16) -> Vec<String> {
    let (sa_private, sa_public) = &pki.service_account;
    vec![
        format!("--etcd-servers=http://127.0.0.1:{etcd}"),
        format!("--secure-port={port}"),
        "--bind-address=127.0.0.1".to_owned(),
        "--advertise-address=127.0.0.1".to_owned(),
        // A loopback address is not allowed in Endpoints, and there are no pods to reach it.
        "--endpoint-reconciler-type=none".to_owned(),
        format!("--tls-cert-file={}", pki.apiserver.cert_file.display()),
        format!("--tls-private-key-file={}", pki.apiserver.key_file.display()),
        format!("--client-ca-file={}", pki.ca.cert_file.display()),
        format!("--service-account-key-file={}", sa_public.display()),
        format!("--service-account-signing-key-file={}", sa_private.display()),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        "--allow-privileged=true".to_owned(),
        // A restart in a fault test need not wait for watches to end by themselves.
        "--shutdown-delay-duration=0s".to_owned(),
    ]
}

fn manager_args(folder: &Path, pki: &Pki, kubeconfig: &Path, port: u16) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", kubeconfig.display()),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--secure-port={port}"),
        format!("--cert-dir={}", folder.join("pki").display()),
        format!("--service-account-private-key-file={}", pki.service_account.0.display()),
        format!("--root-ca-file={}", pki.ca.cert_file.display()),
        "--use-service-account-credentials".to_owned(),
        "--leader-elect=false".to_owned(),
        // With the default of 20 it takes seconds until every controller has its credentials.
        "--kube-api-qps=1000".to_owned(),
        "--kube-api-burst=1000".to_owned(),
        format!("--cluster-signing-cert-file={}", pki.ca.cert_file.display()),
        format!("--cluster-signing-key-file={}", pki.ca.key_file.display()),
    ]
}
