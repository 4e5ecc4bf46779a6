use std::sync::Arc;

use protocol::route::{
    AcceptedRoute, IngressRoutes, PathType, RejectedRoute, RouteAnswer, RoutePath, RouteRule, RouteSync,
};

use super::*;
use crate::rules::{Skipped, Wished};

fn told(outcome: Outcome) -> Told {
    let path = |path: &str| RoutePath {
        path: path.to_owned(),
        path_type: PathType::Prefix,
        service_name: "web".to_owned(),
        service_port: 80,
        service_namespace: None,
        protocol: Default::default(),
    };
    let rule = RouteRule {
        host: "a.example.com".to_owned(),
        tls: false,
        tls_mode: Default::default(),
        paths: vec![path("/"), path("/x")],
    };
    let routes = IngressRoutes {
        namespace: "shop".to_owned(),
        ingress_name: "web".to_owned(),
        annotations: Default::default(),
        rules: vec![rule],
    };
    let source = Source { namespace: "shop".to_owned(), name: "web".to_owned(), uid: "u-1".to_owned() };
    let skipped = Skipped { what: "b.example.com/".to_owned(), reason: "there is no Service".to_owned() };
    let wished = Wished {
        sync: RouteSync { ingresses: vec![routes], ..RouteSync::default() },
        skipped: [(source.clone(), vec![skipped])].into(),
        sources: vec![source],
    };
    Told { wished: Arc::new(wished), outcome }
}

fn said(outcome: Outcome) -> Vec<(Reason, Option<String>)> {
    notes(&told(outcome)).remove(0).1
}

#[test]
fn each_ingress_is_told_what_became_of_its_routes() {
    let answer = RouteAnswer {
        accepted: vec![AcceptedRoute {
            hostname: "a.example.com".to_owned(),
            path: "/".to_owned(),
            url: "https://a.example.com/".to_owned(),
        }],
        rejected: vec![RejectedRoute {
            hostname: "a.example.com".to_owned(),
            path: "/x".to_owned(),
            reason: "cluster north has it".to_owned(),
        }],
    };
    let skipped = (Reason::Skipped, Some("b.example.com/: there is no Service".to_owned()));
    assert_eq!(
        said(Outcome::Taken(Some(answer))),
        [
            (Reason::Published, Some("https://a.example.com/".to_owned())),
            (Reason::Refused, Some("a.example.com/x: cluster north has it".to_owned())),
            skipped.clone(),
        ]
    );
    assert_eq!(
        said(Outcome::Taken(None))[..2],
        [
            (Reason::Published, Some("https://a.example.com/, https://a.example.com/x".to_owned())),
            (Reason::Refused, None)
        ]
    );
    assert_eq!(said(Outcome::Unknown), [skipped], "of what is not known nothing is said, and nothing taken back");
    let refused = said(Outcome::Refused("no".to_owned())).remove(1).1.unwrap();
    assert_eq!(refused, "a.example.com/: no; a.example.com/x: no");
}

#[test]
fn a_note_is_no_longer_than_the_api_server_takes() {
    let text = joined((0..400).map(|n| format!("ü{n}")).collect(), ", ").unwrap();
    assert!(text.len() <= 1024 && text.ends_with(" ..."));
}
