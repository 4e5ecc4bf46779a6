//! What may be asked through this executor: who may be named, and by two policies what may be done.

mod asked;
mod limits;
mod verdict;

use std::sync::Arc;

use http::HeaderMap;
use protocol::config::ProxyPolicy;
use protocol::{Status, User, hop};
use tokio::sync::watch;

use crate::options::{InvalidPolicy, Policy};

use asked::Asked;
use limits::{Limit, Whose};

pub use verdict::narrower;

/// The owner's policy, and the control plane's as it was last heard.
#[derive(Debug)]
pub struct Limits {
    owner: ProxyPolicy,
    /// None before the first word.
    pushed: watch::Sender<Option<Arc<ProxyPolicy>>>,
}

impl Limits {
    /// # Errors
    /// When the owner's policy cannot be meant as it is.
    pub fn of(policy: &Policy) -> Result<Self, InvalidPolicy> {
        Ok(Self { owner: policy.limits()?, pushed: watch::Sender::new(None) })
    }

    pub fn owner(&self) -> &ProxyPolicy {
        &self.owner
    }

    /// From here on this is what the control plane allows.
    pub fn push(&self, policy: ProxyPolicy) {
        self.pushed.send_if_modified(|known| {
            let changed = known.as_deref() != Some(&policy);
            if changed {
                tracing::info!(?policy, "the control plane's policy is in force");
                *known = Some(Arc::new(policy));
            }
            changed
        });
    }

    /// Whether this is what the control plane allows, as far as is known here.
    pub fn enforces(&self, policy: &ProxyPolicy) -> bool {
        self.pushed.borrow().as_deref() == Some(policy)
    }

    /// Completes when the control plane's policy is known, be it that there is none.
    pub async fn known(&self) {
        let mut pushed = self.pushed.subscribe();
        // The sender lives as long as this.
        let _policy = pushed.wait_for(Option::is_some).await;
    }

    /// Whether both policies let a request run.
    pub fn check(&self, method: &http::Method, uri: &http::Uri, headers: &HeaderMap) -> Result<(), Refusal> {
        let pushed = self.pushed.borrow().clone().ok_or(Refusal::NotKnown)?;
        if limits::is_open(&self.owner) && limits::is_open(&pushed) {
            return Ok(());
        }
        let asked = Asked::read(method, uri);
        let upgrade = hop::upgrade_type(headers).is_some();
        limits::check(&self.owner, Whose::Owner, &asked, upgrade)?;
        limits::check(&pushed, Whose::ControlPlane, &asked, upgrade)?;
        Ok(())
    }
}

/// Why a request does not run.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(
        "this cluster does not accept the identity {0:?} from a control plane: names that begin with \"system:\" are reserved (policy.allow_system_identities)"
    )]
    SystemIdentity(String),
    #[error(transparent)]
    Limit(#[from] Limit),
    #[error("what the control plane allows in this cluster is not known yet")]
    NotKnown,
}

impl Refusal {
    /// What the client is told.
    pub fn status(&self) -> Status {
        match self {
            Self::SystemIdentity(_) | Self::Limit(_) => Status::forbidden(self.to_string()),
            Self::NotKnown => Status::unavailable(self.to_string()),
        }
    }
}

const RESERVED: &str = "system:";
/// Harmless, and what every authenticated user has anyway.
const EVERYONE: &str = "system:authenticated";

impl Policy {
    pub fn check_user(&self, user: &User) -> Result<(), Refusal> {
        if self.allow_system_identities {
            return Ok(());
        }
        let named = std::iter::once(&user.name).chain(&user.groups);
        match named.into_iter().find(|name| name.starts_with(RESERVED) && *name != EVERYONE) {
            Some(name) => Err(Refusal::SystemIdentity(name.clone())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, groups: &[&str]) -> User {
        User { name: name.into(), groups: groups.iter().map(ToString::to_string).collect() }
    }

    #[test]
    fn reserved_names_are_refused_unless_the_owner_allows_them() {
        let strict = Policy::default();
        assert_eq!(strict.check_user(&user("ana", &["dev", "system:authenticated"])), Ok(()));
        for bad in [user("ana", &["system:masters"]), user("system:kube-controller-manager", &[])] {
            assert!(matches!(strict.check_user(&bad), Err(Refusal::SystemIdentity(_))), "{bad:?}");
        }
        let open = Policy { allow_system_identities: true, ..Policy::default() };
        assert_eq!(open.check_user(&user("ana", &["system:masters"])), Ok(()));
    }

    #[test]
    fn a_request_runs_when_both_allow_it_and_is_told_who_does_not() {
        let policy = Policy { namespaces: Some(vec!["a".into(), "b".into()]), ..Policy::default() };
        let limits = Limits::of(&policy).unwrap();
        let check = |target: &str| {
            limits
                .check(&http::Method::GET, &target.parse().unwrap(), &HeaderMap::new())
                .map_err(|refusal| refusal.to_string())
        };
        let (a, b, c) = ("/api/v1/namespaces/a/pods", "/api/v1/namespaces/b/pods", "/api/v1/namespaces/c/pods");
        assert!(check(a).unwrap_err().contains("not known yet"));
        limits.push(ProxyPolicy::default());
        assert_eq!((check(a), check(b)), (Ok(()), Ok(())));
        assert!(check(c).unwrap_err().contains("the cluster's owner allows only the namespaces a, b"));
        let both = Some(vec!["b".into(), "c".into()]);
        limits.push(ProxyPolicy { namespaces: both, ..ProxyPolicy::default() });
        assert_eq!(check(b), Ok(()));
        assert!(check(a).unwrap_err().contains("the control plane allows only the namespaces b, c"));
        assert!(check(c).unwrap_err().contains("the cluster's owner"), "the control plane cannot widen it");
        limits.push(ProxyPolicy::default());
        assert_eq!(check(a), Ok(()));
    }

    #[tokio::test]
    async fn the_control_planes_policy_is_waited_for() {
        let limits = Arc::new(Limits::of(&Policy::default()).unwrap());
        let waiting = tokio::spawn({
            let limits = Arc::clone(&limits);
            async move { limits.known().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        limits.push(ProxyPolicy::default());
        waiting.await.unwrap();
        limits.known().await;
    }
}
