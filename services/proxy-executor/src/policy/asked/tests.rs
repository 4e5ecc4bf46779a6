use proptest::prelude::*;

use super::*;

fn read(method: &Method, target: &str) -> Result<Asked, Ambiguous> {
    Asked::read(method, &target.parse().unwrap())
}

/// `verb group/version namespace resource[/subresource] name`, a dash for what is empty.
fn line(method: &Method, target: &str) -> String {
    match read(method, target).unwrap() {
        Asked::Path { verb, path } => format!("{verb} {path}"),
        Asked::Resource(asked) => {
            let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
            let (group, namespace, name) = (or_dash(&asked.group), or_dash(&asked.namespace), or_dash(&asked.name));
            format!("{} {group}/{} {namespace} {} {name}", or_dash(asked.verb), asked.version, asked.kind())
        }
    }
}

/// The cases of the API server's own `TestGetAPIRequestInfo` and `TestGetNonAPIRequestInfo`, and what clients send.
#[test]
fn a_request_is_read_as_the_api_server_reads_it() {
    for (method, target, expected) in [
        (Method::GET, "/api/v1/namespaces", "list -/v1 - namespaces -"),
        (Method::GET, "/api/v1/namespaces/other", "get -/v1 other namespaces other"),
        (Method::PUT, "/api/v1/namespaces/other/finalize", "update -/v1 other namespaces/finalize other"),
        (Method::PATCH, "/api/v1/namespaces/other/status", "patch -/v1 other namespaces/status other"),
        (Method::DELETE, "/api/v1/namespaces/other", "delete -/v1 other namespaces other"),
        (Method::GET, "/api/v1/namespaces/other/pods", "list -/v1 other pods -"),
        (Method::GET, "/api/v1/namespaces/other/pods/foo", "get -/v1 other pods foo"),
        (Method::HEAD, "/api/v1/namespaces/other/pods/foo", "get -/v1 other pods foo"),
        (Method::HEAD, "/api/v1/namespaces/other/pods", "list -/v1 other pods -"),
        (Method::GET, "/api/v1/pods", "list -/v1 - pods -"),
        (Method::GET, "/api/v1/pods/", "list -/v1 - pods -"),
        (Method::POST, "/api/v1/pods", "create -/v1 - pods -"),
        (Method::GET, "/api/v1/namespaces/other/pods?watch=true", "watch -/v1 other pods -"),
        (Method::GET, "/api/v1/namespaces/other/pods?watch=false", "list -/v1 other pods -"),
        (Method::GET, "/api/v1/namespaces/other/pods?watch=0&limit=5", "list -/v1 other pods -"),
        (Method::GET, "/api/v1/namespaces/other/pods?watch", "watch -/v1 other pods -"),
        (Method::GET, "/api/v1/namespaces/other/pods?limit=5&w%61tch=1", "watch -/v1 other pods -"),
        (Method::GET, "/api/v1/namespaces/other/pods?fieldSelector=metadata.name%3Dx", "list -/v1 other pods -"),
        (Method::GET, "/api/v1/namespaces/other/pods/foo?watch=true", "get -/v1 other pods foo"),
        (Method::GET, "/api/v1/watch/pods", "watch -/v1 - pods -"),
        (Method::GET, "/api/v1/watch/namespaces/other/pods", "watch -/v1 other pods -"),
        (Method::GET, "/api/v1/watch/namespaces/other/pods/foo", "watch -/v1 other pods foo"),
        (Method::POST, "/api/v1/watch/pods", "- -/v1 - pods -"),
        (Method::DELETE, "/api/v1/namespaces/other/pods", "deletecollection -/v1 other pods -"),
        (Method::DELETE, "/api/v1/nodes", "deletecollection -/v1 - nodes -"),
        (Method::POST, "/api/v1/namespaces/other/pods", "create -/v1 other pods -"),
        (Method::PUT, "/api/v1/namespaces/other/pods/foo", "update -/v1 other pods foo"),
        (Method::PATCH, "/api/v1/namespaces/other/pods/foo", "patch -/v1 other pods foo"),
        (Method::DELETE, "/api/v1/namespaces/other/pods/foo", "delete -/v1 other pods foo"),
        (Method::OPTIONS, "/api/v1/namespaces/other/pods/foo", "- -/v1 other pods foo"),
        (Method::GET, "/api/v1/namespaces/a/pods/p/exec?command=sh", "get -/v1 a pods/exec p"),
        (Method::POST, "/api/v1/namespaces/a/pods/p/exec?command=sh", "create -/v1 a pods/exec p"),
        (Method::GET, "/api/v1/namespaces/a/pods/p/log?follow=true", "get -/v1 a pods/log p"),
        (
            Method::GET,
            "/api/v1/namespaces/a/services/https:web:/proxy/x//y%2Fz",
            "get -/v1 a services/proxy https:web:",
        ),
        (Method::GET, "/api/v1/nodes/n1/proxy/metrics", "get -/v1 - nodes/proxy n1"),
        (Method::GET, "/apis/apps/v1/namespaces/a/deployments/web/scale", "get apps/v1 a deployments/scale web"),
        (Method::POST, "/apis/apps/v1/namespaces/a/deployments", "create apps/v1 a deployments -"),
        (
            Method::GET,
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node",
            "get rbac.authorization.k8s.io/v1 - clusterroles system:node",
        ),
        (
            Method::GET,
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
            "get rbac.authorization.k8s.io/v1 - clusterroles system:node",
        ),
        (Method::GET, "/apis/x.io/v1/watch/namespaces/a/things", "watch x.io/v1 a things -"),
        (Method::GET, "/", "get "),
        (Method::GET, "/api", "get /api"),
        (Method::GET, "/api/v1", "get /api/v1"),
        (Method::GET, "/api/v1/", "get /api/v1"),
        (Method::GET, "/apis", "get /apis"),
        (Method::GET, "/apis/apps", "get /apis/apps"),
        (Method::GET, "/apis/apps/v1", "get /apis/apps/v1"),
        (Method::POST, "/apis/apps/v1", "post /apis/apps/v1"),
        (Method::GET, "/openapi/v3/apis/apps/v1", "get /openapi/v3/apis/apps/v1"),
        (Method::GET, "/API/v1/pods", "get /API/v1/pods"),
        (Method::GET, "/readyz?verbose", "get /readyz"),
    ] {
        assert_eq!(line(&method, target), expected, "{method} {target}");
    }
}

#[test]
fn what_could_be_two_things_is_refused() {
    for (target, expected) in [
        ("//api/v1/pods", Ambiguous::EmptySegment),
        ("/api//v1/pods", Ambiguous::EmptySegment),
        ("/api/v1/namespaces//pods", Ambiguous::EmptySegment),
        ("/api/v1/pods//", Ambiguous::EmptySegment),
        ("/api/v1/namespaces/a/../b/pods", Ambiguous::DotSegment),
        ("/api/v1/namespaces/a/%2e%2E/b/pods", Ambiguous::DotSegment),
        ("/api/v1/./pods", Ambiguous::DotSegment),
        ("/api/v1/namespaces/a/pods/p/proxy/../../q", Ambiguous::DotSegment),
        ("/api/v1/namespaces/a/pods/p/proxy/..%2F..%2Fq", Ambiguous::DotSegment),
        ("/api/v1/namespaces/a%2Fpods%2fp%2Fexec", Ambiguous::Character('/')),
        ("/api/v1/namespaces/a/pods/p%5Cexec", Ambiguous::Character('\\')),
        ("/api/v1/namespaces/a/pods/p/%2565xec", Ambiguous::Character('%')),
        ("/api/v1/namespaces/a/pods/p%3Fx", Ambiguous::Character('?')),
        ("/api/v1/namespaces/a/pods/p%00", Ambiguous::Character('\0')),
        ("/api/v1/namespaces/a/pods/p;x", Ambiguous::Character(';')),
        ("/api/v1/namespaces/a/pods/p%", Ambiguous::Encoding),
        ("/api/v1/namespaces/a/pods/p%2", Ambiguous::Encoding),
        ("/api/v1/namespaces/a/pods/p%zz", Ambiguous::Encoding),
        ("/api/v1/namespaces/a/pods/p%+1", Ambiguous::Encoding),
        ("/api/v1/namespaces/a/pods/p%ff", Ambiguous::Encoding),
        ("/api/v1/watch", Ambiguous::Legacy),
        ("/api/v1/proxy/namespaces/a/pods/p", Ambiguous::Legacy),
        ("/api/v1/pods?watch=false&watch=true", Ambiguous::Watch),
        ("/api/v1/pods?watch=false&w%61tch=true", Ambiguous::Watch),
        ("/api/v1/pods?Watch=true", Ambiguous::Watch),
        ("/api/v1/pods?+watch=true", Ambiguous::Watch),
        ("/api/v1/pods?watch%zz=true", Ambiguous::Watch),
        ("/api/v1/pods?a=b;watch=true", Ambiguous::Watch),
    ] {
        assert_eq!(read(&Method::GET, target), Err(expected), "{target}");
    }
}

proptest! {
    #[test]
    fn no_path_makes_it_panic(target in "/[ -~]{0,60}|/apis?/[a-z/%.0-9]{0,50}(\\?[ -~]{0,20})?", method in "[A-Z]{1,8}") {
        if let (Ok(uri), Ok(method)) = (target.parse(), Method::from_bytes(method.as_bytes())) {
            let _read = Asked::read(&method, &uri);
        }
    }

    /// However a path is encoded: it is read as it was, or not at all.
    #[test]
    fn an_encoded_path_is_no_other_path(
        root in "api|apis/apps", tail in "v1(/(watch|namespaces|pods|exec|proxy|a|b\\.c)){1,8}",
        encoded in prop::collection::vec(any::<bool>(), 90), upper: bool,
    ) {
        let plain = format!("/{root}/{tail}");
        let rewritten: String = plain.char_indices().map(|(i, c)| match (encoded.get(i), upper) {
            (Some(true), true) if i > 0 => format!("%{:02X}", u32::from(c)),
            (Some(true), false) if i > 0 => format!("%{:02x}", u32::from(c)),
            _ => c.to_string(),
        }).collect();
        let before = read(&Method::GET, &plain);
        if let Ok(after) = read(&Method::GET, &rewritten) {
            prop_assert_eq!(Ok(after), before, "{} for {}", rewritten, plain);
        }
    }
}
