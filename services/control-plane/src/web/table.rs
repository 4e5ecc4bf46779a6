#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use protocol::route::{PathType, Route, TlsMode};
use protocol::{ClusterId, Target};

/// The annotation by which the Service of a route that is passed through is told who its clients are: `v2`.
const PROXY_PROTOCOL: &str = "pipeops.io/proxy-protocol";

/// Which route a request takes, of all routes.
#[derive(Debug, Default)]
pub struct Table {
    /// By hostname, `*.` included.
    hosts: HashMap<String, Arc<Host>>,
    /// How many hostnames of which cluster are one label below a domain: those that its wildcard covers.
    domains: HashMap<String, HashMap<ClusterId, usize>>,
    /// How many hostnames are passed through.
    passed: usize,
}

/// A hostname, and what is below it.
#[derive(Debug)]
pub struct Host {
    pub hostname: String,
    pub cluster: ClusterId,
    /// Where its connections are passed through to, TLS and all.
    pub passthrough: Option<Passthrough>,
    exact: HashMap<String, Arc<Entry>>,
    /// Without a slash at their ends.
    prefixes: HashMap<String, Arc<Entry>>,
    /// Length of the longest of these.
    longest: usize,
}

/// Where connections that are passed through lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passthrough {
    pub target: Target,
    /// Each begins with a header of the PROXY protocol.
    pub proxy_protocol: bool,
}

/// Where a path leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub target: Target,
    pub tls: bool,
}

impl Table {
    /// The host of that name, which is lower case: one with exactly this name, else a wildcard's.
    pub fn host(&self, name: &str) -> Option<&Arc<Host>> {
        let covering = || self.hosts.get(&format!("*.{}", domain(name)?));
        // What is asked for is a name, not a wildcard.
        if name.starts_with('*') { None } else { self.hosts.get(name).or_else(covering) }
    }

    /// Another cluster that has this hostname, one that it covers, or one that covers it.
    pub fn owner(&self, hostname: &str, cluster: &ClusterId) -> Option<&ClusterId> {
        let of_another = |host: Option<&'_ Arc<Host>>| host.is_some_and(|host| host.cluster != *cluster);
        if let Some(host) = self.hosts.get(hostname).filter(|host| of_another(Some(host))) {
            return Some(&host.cluster);
        }
        let domain = domain(hostname)?;
        if hostname.starts_with("*.") {
            return self.domains.get(domain)?.keys().find(|other| *other != cluster);
        }
        self.hosts.get(&format!("*.{domain}")).filter(|host| of_another(Some(host))).map(|host| &host.cluster)
    }

    pub fn has(&self, hostname: &str) -> bool {
        self.hosts.contains_key(hostname)
    }

    pub fn passes_through(&self) -> bool {
        self.passed > 0
    }

    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    /// Makes the cluster's routes `now` instead of those of `before`.
    pub fn replace(&mut self, cluster: &ClusterId, before: &[Route], now: &[Route]) {
        for route in before {
            if self.hosts.get(&route.hostname).is_some_and(|host| host.cluster == *cluster) {
                let gone = self.hosts.remove(&route.hostname);
                self.passed -= usize::from(gone.is_some_and(|host| host.passthrough.is_some()));
                self.count(&route.hostname, cluster, false);
            }
        }
        let mut hosts: HashMap<&str, Host> = HashMap::new();
        for route in now {
            // What could not lead anywhere was refused.
            let Ok(target) = route.check() else { continue };
            let host = hosts.entry(&route.hostname).or_insert_with(|| Host::new(&route.hostname, cluster));
            if route.tls_mode == TlsMode::Passthrough {
                let proxy_protocol = route.annotations.get(PROXY_PROTOCOL).is_some_and(|version| version == "v2");
                host.passthrough = Some(Passthrough { target: target.clone(), proxy_protocol });
            }
            host.add(route, Entry { target, tls: route.tls });
        }
        for (hostname, host) in hosts {
            self.passed += usize::from(host.passthrough.is_some());
            if self.hosts.insert(hostname.to_owned(), Arc::new(host)).is_none() {
                self.count(hostname, cluster, true);
            }
        }
    }

    fn count(&mut self, hostname: &str, cluster: &ClusterId, more: bool) {
        let Some(domain) = domain(hostname) else { return };
        let clusters = self.domains.entry(domain.to_owned()).or_default();
        let count = clusters.entry(cluster.clone()).or_default();
        *count = if more { *count + 1 } else { count.saturating_sub(1) };
        clusters.retain(|_, count| *count > 0);
        if clusters.is_empty() {
            self.domains.remove(domain);
        }
    }
}

impl Host {
    fn new(hostname: &str, cluster: &ClusterId) -> Self {
        let (exact, prefixes) = (HashMap::new(), HashMap::new());
        Self { hostname: hostname.to_owned(), cluster: cluster.clone(), passthrough: None, exact, prefixes, longest: 0 }
    }

    fn add(&mut self, route: &Route, entry: Entry) {
        let (path, exact) = key(route);
        if exact {
            self.exact.insert(path.to_owned(), Arc::new(entry));
        } else {
            self.longest = self.longest.max(path.len());
            self.prefixes.insert(path.to_owned(), Arc::new(entry));
        }
    }

    /// Exactly this path's, else that of the longest path that it is below.
    pub fn entry(&self, path: &str) -> Option<&Arc<Entry>> {
        if let Some(entry) = self.exact.get(path) {
            return Some(entry);
        }
        let mut rest = path.strip_suffix('/').unwrap_or(path);
        loop {
            if rest.len() <= self.longest
                && let Some(entry) = self.prefixes.get(rest)
            {
                return Some(entry);
            }
            // Nothing is looked up that is longer than any path there is, however many slashes it has.
            let end = rest.len().min(self.longest + 1);
            let head = rest.as_bytes().get(..end)?;
            let slash = head.iter().rposition(|byte| *byte == b'/')?;
            rest = rest.get(..slash)?;
        }
    }
}

/// What makes two routes of a hostname the same: the path as it is compared, and whether all of it is.
pub fn key(route: &Route) -> (&str, bool) {
    match route.path_type {
        PathType::Exact => (&route.path, true),
        PathType::Prefix | PathType::ImplementationSpecific => {
            (route.path.strip_suffix('/').unwrap_or(&route.path), false)
        }
    }
}

/// What follows the first label.
fn domain(hostname: &str) -> Option<&str> {
    hostname.split_once('.').map(|(_, domain)| domain)
}
