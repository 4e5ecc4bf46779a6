//! What the owner's policy leaves of one that the control plane wishes for.

use protocol::config::{ProxyPolicy, Refused};

use protocol::config::VERBS;

use super::limits::{READING, list};

/// Where `owner` allows less than `wished` does.
pub fn narrower(owner: &ProxyPolicy, wished: &ProxyPolicy) -> Vec<Refused> {
    let mut refused = Vec::new();
    let mut refuse = |setting: &str, reason: String| refused.push(Refused { setting: setting.to_owned(), reason });
    // Sessions begin with a `get`: only `read_only` itself rules them out.
    if owner.read_only && !wished.read_only {
        refuse("proxy.read_only", "the cluster's owner allows reading only".to_owned());
    }
    if let Some(allowed) = &owner.verbs {
        let allows = |verb: &str| allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(verb));
        // That there is no changing was said already.
        if !verbs(wished).iter().filter(|verb| !owner.read_only || is_read(verb)).all(|verb| allows(verb)) {
            refuse("proxy.verbs", format!("the cluster's owner allows only {}", list(allowed)));
        }
    }
    if let Some(allowed) = &owner.namespaces
        && !wished.namespaces.as_ref().is_some_and(|wished| wished.iter().all(|name| allowed.contains(name)))
    {
        refuse("proxy.namespaces", format!("the cluster's owner allows only {}", list(allowed)));
    }
    let denied_anyway =
        |entry: &&String| wished.denied_subresources.iter().any(|wished| wished.eq_ignore_ascii_case(entry));
    let more: Vec<String> = owner.denied_subresources.iter().filter(|entry| !denied_anyway(entry)).cloned().collect();
    if !more.is_empty() {
        refuse("proxy.denied_subresources", format!("the cluster's owner does not allow {}", list(&more)));
    }
    refused
}

/// What a policy lets be done, by its verbs.
fn verbs(policy: &ProxyPolicy) -> Vec<String> {
    let named = policy.verbs.clone().unwrap_or_else(|| VERBS.map(str::to_owned).to_vec());
    named.into_iter().filter(|verb| !policy.read_only || is_read(verb)).collect()
}

fn is_read(verb: &str) -> bool {
    READING.iter().any(|read| read.eq_ignore_ascii_case(verb))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(json: &str) -> ProxyPolicy {
        serde_json::from_str(json).unwrap()
    }

    fn verdict(owner: &str, wished: &str) -> Vec<String> {
        let refused = narrower(&policy(owner), &policy(wished));
        refused.into_iter().map(|Refused { setting, reason }| format!("{setting}: {reason}")).collect()
    }

    #[test]
    fn what_the_owner_leaves_is_said_by_setting() {
        let none: [&str; 0] = [];
        for (owner, wished) in [
            ("{}", "{}"),
            ("{}", r#"{"read_only":true,"namespaces":["a"],"verbs":["get"],"denied_subresources":["pods/exec"]}"#),
            (r#"{"read_only":true}"#, r#"{"read_only":true}"#),
            (r#"{"verbs":["get","list","watch"]}"#, r#"{"read_only":true}"#),
            (r#"{"verbs":["get","list"]}"#, r#"{"verbs":["GET"]}"#),
            (r#"{"namespaces":["a","b"]}"#, r#"{"namespaces":["b"]}"#),
            (r#"{"namespaces":["a","b"]}"#, r#"{"namespaces":[]}"#),
            (r#"{"denied_subresources":["pods/exec"]}"#, r#"{"denied_subresources":["pods/attach","pods/exec"]}"#),
        ] {
            assert_eq!(verdict(owner, wished), none, "{owner} {wished}");
        }
        for (owner, wished, says) in [
            (r#"{"namespaces":["a","b"]}"#, "{}", "proxy.namespaces: the cluster's owner allows only a, b"),
            (
                r#"{"namespaces":["a","b"]}"#,
                r#"{"namespaces":["b","c"]}"#,
                "proxy.namespaces: the cluster's owner allows only a, b",
            ),
            (r#"{"read_only":true}"#, "{}", "proxy.read_only: the cluster's owner allows reading only"),
            (
                r#"{"read_only":true}"#,
                r#"{"verbs":["get"]}"#,
                "proxy.read_only: the cluster's owner allows reading only",
            ),
            (r#"{"verbs":["get"]}"#, "{}", "proxy.verbs: the cluster's owner allows only get"),
            (r#"{"verbs":["get"]}"#, r#"{"read_only":true}"#, "proxy.verbs: the cluster's owner allows only get"),
            (
                r#"{"denied_subresources":["pods/exec","pods/log"]}"#,
                r#"{"denied_subresources":["pods/log"]}"#,
                "proxy.denied_subresources: the cluster's owner does not allow pods/exec",
            ),
        ] {
            assert_eq!(verdict(owner, wished), [says], "{owner} {wished}");
        }
        let all = r#"{"read_only":true,"verbs":["get"],"namespaces":["a"],"denied_subresources":["pods/log"]}"#;
        assert_eq!(verdict(all, "{}").len(), 4);
    }
}
