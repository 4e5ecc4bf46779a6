use http::{Method, Uri};
use proptest::prelude::*;

use super::*;

fn policy(json: &str) -> ProxyPolicy {
    serde_json::from_str(json).unwrap()
}

fn run(policy: &ProxyPolicy, method: &str, target: &str) -> Result<(), Limit> {
    let (method, upgrade) = method.strip_suffix('^').map_or((method, false), |method| (method, true));
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let asked = Asked::read(&method, &target.parse::<Uri>().unwrap());
    check(policy, Whose::Owner, &asked, upgrade)
}

/// `^` behind a method: with an upgrade.
fn passes(policy: &ProxyPolicy, requests: &[(&str, &str)]) {
    for (method, target) in requests {
        assert_eq!(run(policy, method, target), Ok(()), "{method} {target}");
    }
}

fn refused(policy: &ProxyPolicy, says: &str, requests: &[(&str, &str)]) {
    for (method, target) in requests {
        let limit = run(policy, method, target).expect_err(target).to_string();
        assert!(limit.contains(says) && limit.contains("the cluster's owner"), "{method} {target}: {limit}");
    }
}

const PODS: &str = "/api/v1/namespaces/a/pods";
const EXEC: &str = "/api/v1/namespaces/a/pods/p/exec?command=sh";

#[test]
fn without_a_policy_everything_runs_even_what_is_odd() {
    passes(&ProxyPolicy::default(), &[("DELETE", PODS), ("GET^", EXEC), ("PURGE", "//a/../b%")]);
}

#[test]
fn read_only_is_reading_and_nothing_behind_the_api() {
    let policy = policy(r#"{"read_only":true}"#);
    passes(
        &policy,
        &[
            ("GET", PODS),
            ("HEAD", PODS),
            ("GET", "/api/v1/pods?watch=true"),
            ("GET^", "/api/v1/pods?watch=true"),
            ("GET", "/api/v1/namespaces/a/pods/p/log?follow=true"),
            ("GET^", "/api/v1/namespaces/a/pods/p/log?follow=true"),
            ("GET", "/apis/apps/v1/namespaces/a/deployments/web/scale"),
            ("GET", "/version"),
            ("GET", "/apis/apps/v1"),
            ("GET", "/metrics"),
            ("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"),
            ("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews"),
        ],
    );
    refused(
        &policy,
        "reading only (read_only)",
        &[
            ("POST", PODS),
            ("DELETE", PODS),
            ("PUT", "/api/v1/namespaces/a/pods/p"),
            ("PATCH", "/api/v1/namespaces/a/pods/p/status"),
            ("OPTIONS", PODS),
            ("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews"),
            ("PATCH", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"),
            ("POST", "/apis/other.io/v1/selfsubjectaccessreviews"),
            ("POST", "/version"),
            ("GET^", EXEC),
            ("GET", EXEC),
            ("POST^", EXEC),
            ("GET^", "/api/v1/watch/namespaces/a/pods/p/exec"),
            ("GET^", "/api/v1/namespaces/a/pods/p/attach"),
            ("GET^", "/api/v1/namespaces/a/pods/p/portforward"),
            ("GET", "/api/v1/namespaces/a/pods/p/proxy/admin?do=it"),
            ("GET", "/api/v1/namespaces/a/services/s/proxy"),
            ("GET", "/api/v1/nodes/n/proxy/exec/a/p/c"),
            // Sessions that other API servers have under names of their own.
            ("GET^", "/apis/subresources.kubevirt.io/v1/namespaces/a/virtualmachineinstances/v/console"),
            ("GET^", "/logs/x"),
        ],
    );
}

#[test]
fn verbs_are_those_of_the_list_and_a_session_needs_create() {
    let some = policy(r#"{"verbs":["get","List"]}"#);
    passes(
        &some,
        &[("GET", PODS), ("GET", "/api/v1/namespaces/a/pods/p"), ("GET", "/apis"), ("GET", "/api/v1/nodes/n/proxy/x")],
    );
    refused(
        &some,
        "only the verbs get, List (verbs)",
        &[("GET", "/api/v1/pods?watch=1"), ("POST", PODS), ("DELETE", PODS), ("TRACE", PODS), ("POST", "/logs")],
    );
    refused(&some, "the verb create", &[("GET^", EXEC), ("GET", EXEC), ("GET^", "/api/v1/nodes/n/proxy/exec/a/p/c")]);
    passes(&policy(r#"{"verbs":["get","create"]}"#), &[("GET^", EXEC), ("POST^", EXEC), ("POST", PODS)]);
    refused(&policy(r#"{"verbs":["create"]}"#), "only the verbs", &[("GET^", EXEC), ("GET", "/metrics")]);
    refused(&policy(r#"{"verbs":[]}"#), "an empty list", &[("GET", PODS)]);
}

#[test]
fn namespaces_are_those_of_the_list_and_nothing_is_outside() {
    let policy = policy(r#"{"namespaces":["a","b"]}"#);
    passes(
        &policy,
        &[
            ("GET", PODS),
            ("DELETE", "/api/v1/namespaces/b/secrets"),
            ("GET^", EXEC),
            ("GET", "/api/v1/namespaces/a"),
            ("GET", "/apis/apps/v1/watch/namespaces/b/deployments"),
            ("POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"),
            ("GET", "/api"),
            ("GET", "/apis/apps/v1"),
            ("GET", "/openapi/v3/api/v1"),
            ("GET", "/readyz/etcd"),
            ("GET", "/version"),
        ],
    );
    refused(
        &policy,
        "only the namespaces a, b (namespaces)",
        &[
            ("GET", "/api/v1/namespaces/c/pods"),
            ("GET", "/api/v1/namespaces/A/pods"),
            ("GET", "/api/v1/namespaces/c"),
            ("GET", "/api/v1/namespaces"),
            ("GET", "/api/v1/pods"),
            ("GET", "/api/v1/nodes/a"),
            ("GET", "/api/v1/pods?fieldSelector=metadata.namespace%3Da"),
            ("GET", "/metrics"),
            ("GET", "/apisx"),
            ("GET", "/logs/kube-apiserver.log"),
            ("POST", "/openapi/v2"),
            ("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews"),
        ],
    );
}

#[test]
fn denied_subresources_are_denied_to_all_who_write_them() {
    let some = policy(r#"{"denied_subresources":["pods/exec","ephemeralcontainers","*/Proxy"]}"#);
    passes(
        &some,
        &[("GET", PODS), ("GET^", "/api/v1/namespaces/a/pods/p/attach"), ("GET", "/api/v1/namespaces/a/things/p/exec")],
    );
    refused(&some, "does not allow pods/exec (denied_subresources)", &[("GET^", EXEC), ("POST", EXEC)]);
    refused(&some, "ephemeralcontainers", &[("PATCH", "/api/v1/namespaces/a/pods/p/ephemeralcontainers")]);
    refused(&some, "*/Proxy", &[("GET", "/api/v1/nodes/n/proxy/"), ("GET", "/api/v1/namespaces/a/services/s/proxy/x")]);
}

#[test]
fn a_limit_refuses_what_can_be_read_in_several_ways() {
    let policy = policy(r#"{"denied_subresources":["pods/exec"]}"#);
    refused(
        &policy,
        "in several ways",
        &[("GET", "/api/v1/namespaces/a/pods/p//exec"), ("GET", "/api/v1/namespaces/a/pods/p%2fexec")],
    );
    assert!(run(&policy, "GET", "//").unwrap_err().to_string().contains("empty segment"));
}

/// Ways to write a path that somebody might hope to pass with.
fn disguised(path: String) -> impl Strategy<Value = String> {
    let length = path.len();
    let change = (0..7_u8, any::<prop::sample::Index>());
    prop::collection::vec(change, 1..5).prop_map(move |changes| {
        let mut path = path.clone();
        for (change, at) in changes {
            let at = at.index(length.min(path.len()));
            let Some(byte) = path.as_bytes().get(at).copied() else { continue };
            let slash = path.as_bytes()[at..].iter().position(|b| *b == b'/').map_or(path.len(), |i| at + i);
            match change {
                0 => path.replace_range(at..=at, &format!("%{byte:02x}")),
                1 => path.replace_range(at..=at, &format!("%25{byte:02X}")),
                2 => path.insert(slash, '/'),
                3 => path.insert_str(slash, "/."),
                4 => path.insert_str(slash, "/x/.."),
                5 => path.insert_str(slash, "/%2e%2e"),
                _ => path.push('/'),
            }
        }
        path
    })
}

proptest! {
    /// What a policy refuses, it refuses however it is written; but for what the API server reads as something else.
    #[test]
    fn what_is_refused_plainly_does_not_pass_in_disguise(
        (plain, written) in prop::sample::select(vec![
            "/api/v1/namespaces/a/pods/p/exec", "/api/v1/namespaces/c/pods", "/api/v1/namespaces/c/secrets/s",
            "/api/v1/nodes/n/proxy/run", "/apis/apps/v1/namespaces/c/deployments", "/api/v1/secrets", "/metrics",
        ]).prop_flat_map(|plain| (Just(plain), disguised(plain.to_owned()))),
    ) {
        let policy = policy(r#"{"read_only":true,"namespaces":["a","x"],"denied_subresources":["pods/exec"]}"#);
        prop_assert!(run(&policy, "GET", plain).is_err());
        // Encoded twice it is another name, which our reader refuses.
        if let Ok(uri) = written.parse::<Uri>() {
            let asked = Asked::read(&Method::GET, &uri);
            prop_assert!(check(&policy, Whose::Owner, &asked, false).is_err(), "{written} for {plain}");
        }
    }
}
