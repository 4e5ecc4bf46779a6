//! How the node's programs are started: files and flags.

use super::{images, machine::Machine};
use crate::{
    cluster::{CLUSTER_IPS, DNS_IP, NODE, POD_IPS},
    folders::write_atomically,
    kubeconfig::{self, Login},
    parts::Parts,
    pki::{Authority, Subject},
    process::{Health, Spec},
};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

const GRACE: Duration = Duration::from_secs(10);

/// Everything of the node besides the control plane.
#[derive(Debug)]
pub(super) struct Programs {
    /// Before all others.
    pub(super) containerd: Spec,
    /// Once the API server answers.
    pub(super) rest: Vec<Spec>,
    /// Enforces NetworkPolicy, once the node is known.
    pub(super) firewall: Spec,
    /// Where containerd listens.
    pub(super) socket: PathBuf,
}

/// Where the API server is, and who signs what the node shows it.
pub(super) struct Api<'a> {
    pub(super) url: &'a str,
    pub(super) authority: &'a Authority,
    pub(super) admin_kubeconfig: &'a Path,
}

struct Writer<'a> {
    machine: &'a Machine,
    parts: &'a Parts,
    api: &'a Api<'a>,
}

pub(super) fn programs(machine: &Machine, parts: &Parts, api: &Api<'_>) -> Result<Programs> {
    let writer = Writer { machine, parts, api };
    let socket = machine.folder.join("containerd.sock");
    let address = machine.address;
    let containerd = writer.containerd(&socket)?;
    let rest = vec![writer.scheduler()?, writer.kubelet(&socket)?, writer.kube_proxy()?];
    let firewall = writer.spec(
        "kube-router",
        vec![
            format!("--kubeconfig={}", api.admin_kubeconfig.display()),
            // NetworkPolicy, and nothing else of what it can do.
            "--run-firewall=true".to_owned(),
            "--run-router=false".to_owned(),
            "--run-service-proxy=false".to_owned(),
            format!("--hostname-override={NODE}"),
            format!("--service-cluster-ip-range={CLUSTER_IPS}"),
        ],
        Health::Http(format!("http://{address}:20244/healthz")),
    )?;
    Ok(Programs { containerd, rest, firewall, socket })
}

impl Writer<'_> {
    fn spec(&self, name: &str, args: Vec<String>, health: Health) -> Result<Spec> {
        Ok(Spec {
            name: name.to_owned(),
            binary: self.parts.path(name)?.to_owned(),
            args,
            // containerd finds runc and its shim there, and the kubelet and kube-router what they call.
            env: BTreeMap::from([("PATH".to_owned(), self.search_path()?)]),
            folder: self.machine.folder.clone(),
            health,
            grace: GRACE,
        })
    }

    fn search_path(&self) -> Result<String> {
        let parts = self.parts.search_path()?.into_string().ok().context("a folder of PATH is no text")?;
        Ok(format!("{parts}:/usr/sbin:/usr/bin:/sbin:/bin"))
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<PathBuf> {
        let path = self.machine.folder.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
        }
        write_atomically(&path, content, 0o600)?;
        Ok(path)
    }

    fn json(&self, name: &str, content: &Value) -> Result<PathBuf> {
        self.write(name, &serde_json::to_vec_pretty(content)?)
    }

    /// A kubeconfig for a user of the cluster's own.
    fn kubeconfig(&self, file: &str, user: &str, group: Option<&str>) -> Result<PathBuf> {
        let pair = self.api.authority.issue(file, &Subject { name: user, organisation: group }, &[], &[])?;
        let path = self.machine.folder.join(format!("{file}.kubeconfig"));
        let ca = &self.api.authority.ca.cert_pem;
        kubeconfig::write(&path, self.api.url, ca, user, &Login::Certificate(&pair))?;
        Ok(path)
    }

    fn containerd(&self, socket: &Path) -> Result<Spec> {
        let folder = self.machine.folder.display();
        let plugins = self.parts.path("bridge")?.parent().context("the CNI plugins have no folder")?;
        let network = json!({
            "cniVersion": "1.0.0",
            "name": "lab",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "pods",
                    "isGateway": true,
                    "ipMasq": true,
                    "hairpinMode": true,
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{ "subnet": POD_IPS }]],
                        "routes": [{ "dst": "0.0.0.0/0" }],
                        "dataDir": format!("{folder}/ipam"),
                    },
                },
                { "type": "portmap", "capabilities": { "portMappings": true } },
            ],
        });
        self.json("cni/10-lab.conflist", &network)?;
        // root lacks CAP_SYS_RESOURCE in some sandboxes, so a lower OOM score cannot be asked for.
        let config = format!(
            r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "{socket}"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  BinaryName = "{runc}"
  SystemdCgroup = false
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["{plugins}"]
  conf_dir = "{folder}/cni"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{pause}"
"#,
            socket = socket.display(),
            runc = self.parts.path("runc")?.display(),
            plugins = plugins.display(),
            pause = images::PAUSE,
        );
        let config = self.write("containerd.toml", config.as_bytes())?;
        self.spec("containerd", vec!["--config".to_owned(), config.display().to_string()], Health::Running)
    }

    fn scheduler(&self) -> Result<Spec> {
        let address = self.machine.address;
        let kubeconfig = self.kubeconfig("kube-scheduler", "system:kube-scheduler", None)?;
        let args = vec![
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--bind-address={address}"),
            "--leader-elect=false".to_owned(),
            // The default of 50 makes a test that starts many pods wait.
            "--kube-api-qps=1000".to_owned(),
            "--kube-api-burst=1000".to_owned(),
        ];
        self.spec("kube-scheduler", args, Health::Http(format!("https://{address}:10259/healthz")))
    }

    fn kubelet(&self, socket: &Path) -> Result<Spec> {
        let (folder, address) = (self.machine.folder.display(), self.machine.address);
        let user = format!("system:node:{NODE}");
        let serving = Subject { name: &user, organisation: Some("system:nodes") };
        let serving = self.api.authority.issue("kubelet-serving", &serving, &[NODE], &[address])?;
        let resolv_conf = self.write("resolv.conf", b"nameserver 127.0.0.1\n")?;
        let config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": address,
            "healthzBindAddress": address,
            "authentication": {
                "anonymous": { "enabled": false },
                "webhook": { "enabled": true },
                "x509": { "clientCAFile": self.api.authority.ca.cert_file },
            },
            "authorization": { "mode": "Webhook" },
            "tlsCertFile": serving.cert_file,
            "tlsPrivateKeyFile": serving.key_file,
            "containerRuntimeEndpoint": format!("unix://{}", socket.display()),
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": self.machine.cgroup(),
            "failCgroupV1": false,
            "failSwapOn": false,
            "clusterDNS": [DNS_IP],
            "clusterDomain": "cluster.local",
            "resolvConf": resolv_conf,
            "kubeAPIQPS": 1000,
            "kubeAPIBurst": 1000,
            // The disk is that of the machine the lab runs on; how full it is, is not the lab's business.
            "evictionHard": { "nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "50Mi" },
            // Images cannot be fetched again.
            "imageGCHighThresholdPercent": 100,
            "imageMinimumGCAge": "24h",
        });
        let config = self.json("kubelet.json", &config)?;
        let kubeconfig = self.kubeconfig("kubelet", &user, Some("system:nodes"))?;
        let args = vec![
            format!("--config={}", config.display()),
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--hostname-override={NODE}"),
            format!("--node-ip={address}"),
            format!("--cert-dir={folder}/kubelet-pki"),
        ];
        self.spec("kubelet", args, Health::Http(format!("http://{address}:10248/healthz")))
    }

    fn kube_proxy(&self) -> Result<Spec> {
        let address = self.machine.address;
        let kubeconfig = self.kubeconfig("kube-proxy", "system:kube-proxy", None)?;
        let config = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "clusterCIDR": POD_IPS,
            "hostnameOverride": NODE,
            "healthzBindAddress": format!("{address}:10256"),
            "clientConnection": { "kubeconfig": kubeconfig },
            // A limit of the whole machine.
            "conntrack": { "maxPerCore": 0 },
        });
        let config = self.json("kube-proxy.json", &config)?;
        let health = Health::Http(format!("http://{address}:10256/healthz"));
        self.spec("kube-proxy", vec![format!("--config={}", config.display())], health)
    }
}
