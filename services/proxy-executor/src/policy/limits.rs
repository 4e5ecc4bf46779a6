//! What the cluster's owner and the control plane allow, each by a policy of its own: a request passes both or none.

use std::fmt;

use protocol::config::ProxyPolicy;

use super::asked::{Ambiguous, Asked, Resource};

/// Verbs that change nothing.
pub const READING: [&str; 3] = ["get", "list", "watch"];
/// Subresources behind which there is a session, whatever the method: kubectl begins each with a GET.
const SESSIONS: [&str; 3] = ["exec", "attach", "portforward"];
/// Behind it there is another server, which does what it likes with a GET.
const RELAY: &str = "proxy";
/// What everybody may ask of themselves, and clients do: it changes nothing, and is in no namespace.
const OF_ONESELF: [(&str, &str); 3] = [
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("authentication.k8s.io", "selfsubjectreviews"),
];
/// What says nothing of any namespace, and clients need.
const DISCOVERY: [&str; 7] = ["/api", "/apis", "/version", "/openapi", "/healthz", "/livez", "/readyz"];

/// Whose limit it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    Owner,
    ControlPlane,
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Owner => "the cluster's owner",
            Self::ControlPlane => "the control plane",
        })
    }
}

/// Why a request is not run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Limit {
    #[error("{asked} is refused: {whose} allows reading only (read_only)")]
    ReadOnly { whose: Whose, asked: String },
    #[error("{asked} is refused: it reaches beyond the API, and {whose} allows reading only (read_only)")]
    Beyond { whose: Whose, asked: String },
    #[error("{asked} is refused: {whose} allows only the verbs {} (verbs)", list(allowed))]
    Verb { whose: Whose, asked: String, allowed: Vec<String> },
    #[error("{asked} is refused: it begins a session, for which {whose} would have to allow the verb create (verbs)")]
    SessionVerb { whose: Whose, asked: String },
    #[error("{asked} is refused: {whose} allows only the namespaces {} (namespaces)", list(allowed))]
    Namespace { whose: Whose, asked: String, allowed: Vec<String> },
    #[error("{asked} is refused: {whose} does not allow {entry} (denied_subresources)")]
    Subresource { whose: Whose, asked: String, entry: String },
    #[error("refused: {whose} limits what may be asked for, and this request can be read in several ways: {found}")]
    Ambiguous { whose: Whose, found: Ambiguous },
}

/// How far a request gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// Objects of the API.
    Api,
    /// A server behind it.
    Relay,
    /// A connection that goes on after the request.
    Session,
}

impl Reach {
    /// Logs and watches are read over upgraded connections, too. Other upgrades are sessions, whosever subresource it is.
    fn of(asked: &Resource, upgrade: bool) -> Self {
        let reads = matches!(asked.verb, "watch" | "list") || asked.subresource == "log";
        if SESSIONS.contains(&asked.subresource.as_str()) || (upgrade && !reads) {
            Self::Session
        } else if asked.subresource == RELAY {
            Self::Relay
        } else {
            Self::Api
        }
    }
}

/// A list for people.
pub fn list(entries: &[String]) -> String {
    if entries.is_empty() { "of an empty list".to_owned() } else { entries.join(", ") }
}

/// Whether nothing is limited.
pub fn is_open(policy: &ProxyPolicy) -> bool {
    *policy == ProxyPolicy::default()
}

/// Whether `policy` lets a request run. `upgrade`: it wants the connection for something else than HTTP.
pub fn check(policy: &ProxyPolicy, whose: Whose, asked: &Result<Asked, Ambiguous>, upgrade: bool) -> Result<(), Limit> {
    if is_open(policy) {
        return Ok(());
    }
    let asked = asked.as_ref().map_err(|found| Limit::Ambiguous { whose, found: found.clone() })?;
    match asked {
        Asked::Path { verb, path } => check_path(policy, whose, asked, verb, path, upgrade),
        Asked::Resource(resource) => {
            check_subresource(policy, whose, asked, resource)?;
            if resource.verb == "create" && is_of_oneself(resource) {
                return Ok(());
            }
            check_verb(policy, whose, asked, resource.verb, Reach::of(resource, upgrade))?;
            check_namespace(policy, whose, asked, &resource.namespace)
        }
    }
}

fn check_path(
    policy: &ProxyPolicy,
    whose: Whose,
    asked: &Asked,
    verb: &'static str,
    path: &str,
    upgrade: bool,
) -> Result<(), Limit> {
    let discovery = DISCOVERY
        .iter()
        .any(|root| path.strip_prefix(root).is_some_and(|below| below.is_empty() || below.starts_with('/')));
    if discovery && verb == "get" && !upgrade {
        return Ok(());
    }
    check_verb(policy, whose, asked, verb, if upgrade { Reach::Session } else { Reach::Api })?;
    check_namespace(policy, whose, asked, "")
}

fn check_verb(
    policy: &ProxyPolicy,
    whose: Whose,
    asked: &Asked,
    verb: &'static str,
    reach: Reach,
) -> Result<(), Limit> {
    let said = || asked.to_string();
    if policy.read_only {
        if reach != Reach::Api {
            return Err(Limit::Beyond { whose, asked: said() });
        }
        if !READING.contains(&verb) {
            return Err(Limit::ReadOnly { whose, asked: said() });
        }
    }
    let Some(allowed) = &policy.verbs else { return Ok(()) };
    let allows = |verb: &str| allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(verb));
    if !allows(verb) {
        return Err(Limit::Verb { whose, asked: said(), allowed: allowed.clone() });
    }
    if reach == Reach::Session && !allows("create") {
        return Err(Limit::SessionVerb { whose, asked: said() });
    }
    Ok(())
}

fn check_namespace(policy: &ProxyPolicy, whose: Whose, asked: &Asked, namespace: &str) -> Result<(), Limit> {
    match &policy.namespaces {
        Some(allowed) if namespace.is_empty() || !allowed.iter().any(|allowed| allowed == namespace) => {
            Err(Limit::Namespace { whose, asked: asked.to_string(), allowed: allowed.clone() })
        }
        _ => Ok(()),
    }
}

fn check_subresource(policy: &ProxyPolicy, whose: Whose, asked: &Asked, resource: &Resource) -> Result<(), Limit> {
    match policy.denied_subresources.iter().find(|entry| denies(entry, resource)) {
        Some(entry) => Err(Limit::Subresource { whose, asked: asked.to_string(), entry: entry.clone() }),
        None => Ok(()),
    }
}

/// `pods/exec` is that of pods; `exec` and `*/exec` that of everything.
fn denies(entry: &str, asked: &Resource) -> bool {
    if asked.subresource.is_empty() {
        return false;
    }
    let (resource, subresource) = entry.split_once('/').unwrap_or(("*", entry));
    subresource.eq_ignore_ascii_case(&asked.subresource)
        && (resource == "*" || resource.eq_ignore_ascii_case(&asked.resource))
}

fn is_of_oneself(asked: &Resource) -> bool {
    asked.subresource.is_empty()
        && asked.name.is_empty()
        && asked.namespace.is_empty()
        && OF_ONESELF.contains(&(asked.group.as_str(), asked.resource.as_str()))
}

#[cfg(test)]
mod tests;
