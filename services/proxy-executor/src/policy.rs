use protocol::User;

use crate::options::Policy;

/// Why the cluster's owner does not let this request run.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(
        "this cluster does not accept the identity {0:?} from a control plane: names that begin with \"system:\" are reserved (policy.allow_system_identities)"
    )]
    SystemIdentity(String),
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
        let open = Policy { allow_system_identities: true };
        assert_eq!(open.check_user(&user("ana", &["system:masters"])), Ok(()));
    }
}
