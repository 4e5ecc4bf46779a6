use protocol::Target;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::pattern::Pattern;

/// Which Services the control plane may have reached. Decided in the cluster, whatever the control plane says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Access {
    /// Services that may be reached: "namespace/service" or "namespace/service:port", in which "*" stands for any
    /// characters of a name, or for any port.
    pub allow: Vec<Pattern>,
    /// Services that may not, even where `allow` names them; in the same form.
    pub deny: Vec<Pattern>,
}

/// The cluster's owner does not let this Service be reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    #[error("Service {target} may not be reached: this cluster's settings deny {pattern:?}")]
    Denied { target: Target, pattern: String },
    #[error("Service {target} may not be reached: this cluster's settings do not allow it")]
    NotAllowed { target: Target },
}

impl Default for Access {
    /// Applications, and nothing that the cluster itself is made of: there is policy on the path to the API server.
    fn default() -> Self {
        let deny = [("kube-system", "*"), ("kube-public", "*"), ("kube-node-lease", "*"), ("default", "kubernetes")];
        Self {
            allow: vec![Pattern::any_port("*", "*")],
            deny: deny.into_iter().map(|(namespace, service)| Pattern::any_port(namespace, service)).collect(),
        }
    }
}

impl Access {
    /// # Errors
    /// Which setting is in the way.
    pub fn check(&self, target: &Target) -> Result<(), Forbidden> {
        if let Some(pattern) = self.deny.iter().find(|pattern| pattern.matches(target)) {
            return Err(Forbidden::Denied { target: target.clone(), pattern: pattern.to_string() });
        }
        if self.allow.iter().any(|pattern| pattern.matches(target)) {
            return Ok(());
        }
        Err(Forbidden::NotAllowed { target: target.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(access: &Access, target: &str) -> Result<(), Forbidden> {
        access.check(&target.parse().unwrap())
    }

    #[test]
    fn the_cluster_itself_is_out_of_reach_by_default() {
        let access = Access::default();
        for target in ["kube-system/kube-dns:53", "default/kubernetes:443", "kube-public/a:1", "kube-node-lease/a:1"] {
            assert!(matches!(check(&access, target), Err(Forbidden::Denied { .. })), "{target}");
        }
        for target in ["default/web:80", "kube-systems/a:1", "shop/kubernetes:443"] {
            assert_eq!(check(&access, target), Ok(()), "{target}");
        }
    }

    #[test]
    fn what_is_denied_stays_so_although_it_is_allowed() {
        let pattern = |text: &str| text.parse().unwrap();
        let access = Access { allow: vec![pattern("shop/*:80")], deny: vec![pattern("*/db-*")] };
        assert_eq!(check(&access, "shop/web:80"), Ok(()));
        assert!(matches!(check(&access, "shop/web:81"), Err(Forbidden::NotAllowed { .. })));
        assert!(matches!(check(&access, "shop/db-1:80"), Err(Forbidden::Denied { .. })));
        assert!(matches!(check(&Access { allow: vec![], deny: vec![] }, "a/b:1"), Err(Forbidden::NotAllowed { .. })));
    }
}
