use super::*;
use crate::site::Client;
use crate::stay::{Stay, StayLimits};
use crate::store::Folder;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use protocol::{AgentId, User};
use serde_json::Value;
use tower::ServiceExt as _;

async fn get(router: &Router, token: &str, path: &str) -> (StatusCode, Value) {
    let request = Request::get(path).header("authorization", format!("Bearer {token}"));
    let stay = Stay::begin(StayLimits::default());
    let client = Client { address: None, tls: true, certified: false, stay };
    let request = request.extension(client).body(Body::empty()).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    (status, serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap())
}

#[tokio::test]
async fn a_list_shows_what_the_token_reaches_and_nothing_else() {
    let place = tempfile::tempdir().unwrap();
    let tokens = Arc::new(Tokens::new(Folder::open(place.path().join("tokens")).unwrap()));
    let clusters = Arc::new(Clusters::open(Folder::open(place.path().join("clusters")).unwrap()).unwrap());
    for name in ["a", "b", "c"] {
        clusters.register(name, &AgentId::new("agent").unwrap()).await.unwrap();
    }
    let router = router(Arc::clone(&tokens), clusters, axum::Router::new());
    let cases: [(Option<&[&str]>, &[&str]); 4] = [
        (None, &["a", "b", "c"]),
        (Some(&["b", "planned"]), &["b"]),
        (Some(&["c", "a"]), &["a", "c"]),
        (Some(&[]), &[]),
    ];
    for (limit, wanted) in cases {
        let clusters = limit.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
        let user = User { name: "ana".into(), groups: Vec::new() };
        let (_, secret) = tokens.create(Grant::User { user, clusters }).unwrap();
        let (status, list) = get(&router, secret.expose(), "/api/v1/clusters").await;
        assert_eq!(status, StatusCode::OK);
        let names: Vec<&str> =
            list["clusters"].as_array().unwrap().iter().map(|cluster| cluster["name"].as_str().unwrap()).collect();
        assert_eq!(names, wanted, "limited to {limit:?}");
        for cluster in list["clusters"].as_array().unwrap() {
            assert_eq!(cluster["status"], "disconnected");
            assert!(cluster["unreachable"].as_str().unwrap().contains("is offline"), "{cluster}");
        }
    }
    let (_, agent) = tokens.create(Grant::Agent { cluster: "a".into() }).unwrap();
    for (token, path, wanted) in [
        (agent.expose(), "/api/v1/clusters", StatusCode::FORBIDDEN),
        ("wrong", "/api/v1/clusters", StatusCode::UNAUTHORIZED),
        ("wrong", "/nowhere", StatusCode::NOT_FOUND),
    ] {
        let (status, body) = get(&router, token, path).await;
        assert_eq!((status, body["kind"].as_str()), (wanted, Some("Status")), "{path}");
    }
}
