//! From the pod's world to this machine's: paths, listen addresses, Service names.

use super::volumes::Mount;
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
};

/// Replaces whole names, longest first, in one pass.
#[derive(Debug)]
pub(super) struct Mapping {
    paths: Vec<(String, String)>,
    addresses: Vec<(String, String)>,
}

impl Mapping {
    pub(super) fn new(
        mounts: &[Mount<'_>],
        services: BTreeMap<String, SocketAddr>,
        ports: &BTreeMap<u16, u16>,
    ) -> Self {
        let paths = mounts.iter().map(|mount| (mount.path.to_owned(), mount.local.display().to_string())).collect();
        let listens = ports.iter().flat_map(|(pod, local)| {
            let local = SocketAddr::from((Ipv4Addr::LOCALHOST, *local)).to_string();
            [(format!("0.0.0.0:{pod}"), local.clone()), (format!("[::]:{pod}"), local)]
        });
        let services = services.into_iter().map(|(name, address)| (name, address.to_string()));
        Self { paths: longest_first(paths), addresses: longest_first(listens.chain(services).collect()) }
    }

    /// Paths, listen addresses and Service names replaced.
    pub(super) fn apply(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        let mut before = None;
        while let Some(next) = rest.chars().next() {
            if let Some((name, replacement)) = self.at(before, rest) {
                out.push_str(replacement);
                rest = rest.get(name.len()..).unwrap_or_default();
                before = name.chars().last();
            } else {
                out.push(next);
                rest = rest.get(next.len_utf8()..).unwrap_or_default();
                before = Some(next);
            }
        }
        out
    }

    fn at(&self, before: Option<char>, rest: &str) -> Option<(&str, &str)> {
        let whole = |name: &str, part_of_name: fn(char) -> bool, ends: fn(char) -> bool| {
            !before.is_some_and(part_of_name)
                && rest.strip_prefix(name).is_some_and(|after| !after.chars().next().is_some_and(ends))
        };
        let path = self.paths.iter().find(|(name, _)| {
            whole(name, |c| c.is_alphanumeric() || "/._-".contains(c), |c| c.is_alphanumeric() || "._-".contains(c))
        });
        let address = || {
            self.addresses
                .iter()
                .find(|(name, _)| whole(name, |c| c.is_alphanumeric() || "._-".contains(c), |c| c.is_ascii_digit()))
        };
        path.or_else(address).map(|(name, replacement)| (name.as_str(), replacement.as_str()))
    }
}

fn longest_first(mut names: Vec<(String, String)>) -> Vec<(String, String)> {
    names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn mapping() -> Mapping {
        let mount = |path, local: &str| Mount { path, local: PathBuf::from(local), sub_path: None, source: None };
        let mounts =
            [mount("/etc/pipeops", "/run/a"), mount("/etc/pipeops/bus", "/run/b"), mount("/etc/nats", "/run/c")];
        let nats = BTreeMap::from([
            ("pipeops-agent-nats:4222".to_owned(), SocketAddr::from(([127, 0, 0, 1], 40001))),
            ("pipeops-agent-nats.ns:4222".to_owned(), SocketAddr::from(([127, 0, 0, 1], 40001))),
        ]);
        Mapping::new(&mounts, nats, &BTreeMap::from([(8080, 40002)]))
    }

    #[test]
    fn replaces_paths_by_their_longest_mount() {
        assert_eq!(mapping().apply("/etc/pipeops/bus/password"), "/run/b/password");
        assert_eq!(mapping().apply("/etc/pipeops/ca.crt"), "/run/a/ca.crt");
        assert_eq!(mapping().apply("--config=/etc/nats/nats.conf"), "--config=/run/c/nats.conf");
        assert_eq!(mapping().apply("/etc/nats"), "/run/c");
    }

    #[test]
    fn leaves_other_paths_alone() {
        for text in ["/etc/pipeops-old/x", "/usr/etc/nats/x", "/etc/natsx", "0.0.0.0:80801", "10.0.0.0:8080"] {
            assert_eq!(mapping().apply(text), text);
        }
    }

    #[test]
    fn replaces_addresses() {
        assert_eq!(mapping().apply("0.0.0.0:8080"), "127.0.0.1:40002");
        assert_eq!(mapping().apply("nats://pipeops-agent-nats:4222"), "nats://127.0.0.1:40001");
        assert_eq!(mapping().apply("nats://pipeops-agent-nats.ns:4222,x"), "nats://127.0.0.1:40001,x");
        assert_eq!(mapping().apply("nats://other-pipeops-agent-nats:4222"), "nats://other-pipeops-agent-nats:4222");
    }
}
