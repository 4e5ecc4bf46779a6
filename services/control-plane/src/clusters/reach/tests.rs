use super::*;
use crate::auth::NewToken;
use crate::store::Folder;
use protocol::{AgentId, User};

fn token(grant: Grant) -> TokenRecord {
    NewToken::generate(grant).record
}

fn user(clusters: Option<&[&str]>) -> TokenRecord {
    let clusters = clusters.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
    token(Grant::User { user: User { name: "ana".into(), groups: Vec::new() }, clusters })
}

#[tokio::test]
async fn a_limited_token_cannot_tell_clusters_it_does_not_reach_from_those_that_are_not() {
    let place = tempfile::tempdir().unwrap();
    let clusters = Arc::new(Clusters::open(Folder::open(place.path().join("clusters")).unwrap()).unwrap());
    let agent = AgentId::new("a").unwrap();
    let mut ids = Vec::new();
    for name in ["mine", "theirs"] {
        ids.push(clusters.register(name, &agent).await.unwrap().record().id.to_string());
    }
    let (mine, theirs) = (ids[0].as_str(), ids[1].as_str());
    let no_id = "00000000-0000-4000-8000-000000000000";
    let everything = user(None);
    let limited = user(Some(&["mine", "planned"]));
    let nothing = user(Some(&[]));
    let agents = token(Grant::Agent { cluster: "mine".into() });
    // What is asked for, and what the three kinds of users are answered.
    let cases = [
        ("mine", 200, 200, 403),
        (mine, 200, 200, 403),
        ("theirs", 200, 403, 403),
        (theirs, 200, 403, 403),
        ("typo", 404, 403, 403),
        (no_id, 404, 403, 403),
        ("", 404, 403, 403),
        ("planned", 404, 404, 403),
    ];
    for (cluster, by_everything, by_limited, by_nothing) in cases {
        for (who, token, wanted) in [
            ("everything", &everything, by_everything),
            ("limited", &limited, by_limited),
            ("nothing", &nothing, by_nothing),
            ("agent", &agents, 403),
        ] {
            let answer = clusters.reach(token, cluster);
            let code = answer.as_ref().map_or_else(|status| status.code, |_| 200);
            assert_eq!(code, wanted, "{who} asks for {cluster:?}");
            if let Ok(found) = answer {
                let record = found.record();
                assert!(record.name == cluster || record.id.as_str() == cluster, "{who} gets another cluster");
            }
        }
    }
    // The answers differ in nothing but what was asked for.
    let said = |cluster: &str| clusters.reach(&limited, cluster).unwrap_err().message.replace(cluster, "X");
    for cluster in [theirs, "typo", no_id] {
        assert_eq!(said(cluster), said("theirs"));
    }
    assert_eq!(said("theirs"), r#"this token does not reach cluster "X""#);
}
