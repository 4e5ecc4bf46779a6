//! The chart's workloads as processes: what a kubelet, the cluster's DNS and kube-proxy would make of them.
//!
//! One process per container and replica, with the environment, arguments and files its pod would have. Three things differ, because
//! there are no pods' addresses and file systems: a path under a mountPath becomes one under the run folder, an address to listen on
//! (`0.0.0.0:PORT`) becomes `127.0.0.1:<free port>`, and `service:port` becomes the address of the process behind that Service.

mod env;
mod mapping;
mod objects;
mod volumes;

use self::{
    mapping::Mapping,
    objects::{Container, IntOrName, Object, PodSpec, Workload},
};
use crate::{
    ports,
    process::{Health, Spec},
    run::Tool,
    tokens::Token,
};
use anyhow::{Context, Result, bail};
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

/// The default of `terminationGracePeriodSeconds`.
const GRACE_SECONDS: u64 = 30;

/// What a kubelet needs to know besides the objects.
#[derive(Clone, Copy)]
pub(crate) struct Kubelet<'a> {
    pub(crate) namespace: &'a str,
    /// As `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`.
    pub(crate) api_host: &'a str,
    pub(crate) api_port: u16,
    /// Where pods' volumes go.
    pub(crate) folder: &'a Path,
    /// Files of the binaries, by name.
    pub(crate) binary: &'a dyn Fn(&str) -> Result<PathBuf>,
}

/// What to start.
#[derive(Debug)]
pub(crate) struct Pods {
    /// In the order to start them: those that others address by name first.
    pub(crate) specs: Vec<Spec>,
    /// The files that hold ServiceAccount tokens, to be filled before the start and kept fresh after it.
    pub(crate) tokens: Vec<Token>,
}

/// One container of one replica.
struct Instance<'a> {
    name: String,
    pod: &'a PodSpec,
    container: &'a Container,
    labels: &'a BTreeMap<String, String>,
    folder: PathBuf,
    /// Container port → local port.
    ports: BTreeMap<u16, u16>,
}

/// Reads the namespace's objects back from the API server and says what to start.
pub(crate) async fn pods(kubectl: &Tool, kubelet: &Kubelet<'_>) -> Result<Pods> {
    let kinds = "deployments,statefulsets,services,secrets,configmaps";
    let text = kubectl.stdout(&["get", kinds, "-n", kubelet.namespace, "-o", "json"]).await?;
    let objects = objects::Objects::parse(&text)?;

    let mut instances = Vec::new();
    for workload in &objects.workloads {
        for replica in 0..workload.spec.replicas.unwrap_or(1) {
            instances.push(Instance::new(workload, replica, kubelet)?);
        }
    }
    // Others find NATS at its address when they start.
    instances.sort_by_key(|instance| !objects.is_addressed(instance.labels));

    let mut pods = Pods { specs: Vec::new(), tokens: Vec::new() };
    for instance in &instances {
        let names = service_addresses(&objects, &instances, kubelet.namespace);
        let (spec, tokens) = instance
            .materialise(&objects, kubelet, names)
            .with_context(|| format!("cannot run {} as its chart says", instance.name))?;
        pods.specs.push(spec);
        pods.tokens.extend(tokens);
    }
    Ok(pods)
}

/// `name:port` of every Service, in each form DNS knows, and where its first endpoint is.
fn service_addresses(
    objects: &objects::Objects,
    instances: &[Instance<'_>],
    namespace: &str,
) -> BTreeMap<String, SocketAddr> {
    let mut addresses = BTreeMap::new();
    for service in &objects.services {
        let selected = |instance: &&Instance<'_>| service.spec.selects(instance.labels);
        let Some(endpoint) = instances.iter().find(selected) else { continue };
        for port in &service.spec.ports {
            let target = match &port.target_port {
                None => Some(port.port),
                Some(IntOrName::Int(number)) => Some(*number),
                Some(IntOrName::Name(name)) => endpoint.container.port_named(name),
            };
            let Some(local) = target.and_then(|target| endpoint.ports.get(&target)) else { continue };
            let name = &service.metadata.name;
            for host in [
                name.clone(),
                format!("{name}.{namespace}"),
                format!("{name}.{namespace}.svc"),
                format!("{name}.{namespace}.svc.cluster.local"),
            ] {
                addresses.insert(format!("{host}:{}", port.port), (Ipv4Addr::LOCALHOST, *local).into());
            }
        }
    }
    addresses
}

impl<'a> Instance<'a> {
    fn new(workload: &'a Object<Workload>, replica: u32, kubelet: &Kubelet<'_>) -> Result<Self> {
        let template = &workload.spec.template;
        let [container] = template.spec.containers.as_slice() else {
            bail!(
                "{} has {} containers; the lab runs one per pod",
                workload.metadata.name,
                template.spec.containers.len()
            );
        };
        let binary = container.binary();
        let name = if replica == 0 { binary.to_owned() } else { format!("{binary}-{replica}") };
        let mut local = BTreeMap::new();
        for port in &container.ports {
            let [free] = ports::free()?;
            local.insert(port.container_port, free);
        }
        Ok(Self {
            folder: kubelet.folder.join(&name),
            name,
            pod: &template.spec,
            container,
            labels: &template.metadata.labels,
            ports: local,
        })
    }

    fn materialise(
        &self,
        objects: &objects::Objects,
        kubelet: &Kubelet<'_>,
        services: BTreeMap<String, SocketAddr>,
    ) -> Result<(Spec, Vec<Token>)> {
        let pod = volumes::Pod {
            name: &self.name,
            namespace: kubelet.namespace,
            service_account: self.pod.service_account_name.as_deref().unwrap_or("default"),
            labels: self.labels,
            folder: &self.folder,
        };
        let mounts = volumes::mounts(&pod, self.pod, self.container);
        let mapping = Mapping::new(&mounts, services, &self.ports);
        let tokens = volumes::write(&pod, &mounts, objects, &mapping)?;

        let mut env = env::resolve(&pod, self.container, objects)?;
        for value in env.values_mut() {
            *value = mapping.apply(value);
        }
        env.insert("KUBERNETES_SERVICE_HOST".to_owned(), kubelet.api_host.to_owned());
        env.insert("KUBERNETES_SERVICE_PORT".to_owned(), kubelet.api_port.to_string());
        env.insert("HOSTNAME".to_owned(), self.name.clone());

        let binary = self.container.binary();
        let command = self.container.command.iter().skip(1).chain(&self.container.args);
        let mut args: Vec<String> = command.map(|argument| mapping.apply(&env::expand(argument, &env))).collect();
        if binary == "nats-server" {
            args.extend(self.nats_flags());
        }
        let spec = Spec {
            name: self.name.clone(),
            binary: (kubelet.binary)(binary)?,
            args,
            env,
            folder: self.folder.clone(),
            health: self.health(),
            grace: Duration::from_secs(self.pod.termination_grace_period_seconds.unwrap_or(GRACE_SECONDS)),
        };
        Ok((spec, tokens))
    }

    /// nats-server's own addresses are in its file, not in its environment; its flags win over the file.
    fn nats_flags(&self) -> Vec<String> {
        let mut flags = vec!["--addr".to_owned(), Ipv4Addr::LOCALHOST.to_string()];
        for (container_port, flag) in [(4222, "--port"), (8222, "--http_port")] {
            if let Some(local) = self.ports.get(&container_port) {
                flags.extend([flag.to_owned(), local.to_string()]);
            }
        }
        flags
    }

    fn health(&self) -> Health {
        let Some(http) = self.container.readiness_probe.as_ref().and_then(|probe| probe.http_get.as_ref()) else {
            let first = self.ports.values().next();
            return first.map_or(Health::Running, |port| Health::Tcp((Ipv4Addr::LOCALHOST, *port).into()));
        };
        let port = match &http.port {
            IntOrName::Int(number) => Some(*number),
            IntOrName::Name(name) => self.container.port_named(name),
        };
        match port.and_then(|port| self.ports.get(&port)) {
            Some(port) => Health::Http(format!("http://127.0.0.1:{port}{}", http.path.as_deref().unwrap_or("/"))),
            None => Health::Running,
        }
    }
}
