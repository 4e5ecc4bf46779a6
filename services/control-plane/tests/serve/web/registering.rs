use serde_json::{Value, json};
use tokio::time::timeout;

use super::app::App;
use super::client::Client;
use super::{Stage, ingress, start};
use crate::control_plane::{SOON, ask, ca, get, token};

fn route(hostname: &str, more: Value) -> Value {
    let mut route = json!({"hostname": hostname, "namespace": "shop", "service_name": "web", "service_port": 80});
    for (key, value) in more.as_object().unwrap() {
        route[key] = value.clone();
    }
    route
}

#[tokio::test]
async fn an_agent_has_the_routes_that_it_says_and_none_of_anothers() {
    let mut stage = Stage::set(&[]).await;
    let data = stage.data();
    let other = token(&data, &["create", "--agent", "--cluster", "other"]).await;
    let user = token(&data, &["create", "--user", "ana", "--cluster", "prod"]).await;
    let stranger = token(&data, &["create", "--user", "bob", "--cluster", "none"]).await;
    let early = stage.api("/register", &stage.secret, &route("a.example.com", json!({}))).await;
    assert!(early.0 == 404 && early.1["message"].as_str().unwrap().contains("has not registered yet"), "{early:?}");
    let app = App::of(&stage).await;
    let _other = App::start(&stage.server, &data, &other, true).await;

    let made = stage.api("/register", &stage.secret, &route("A.example.com", json!({"tls": true}))).await;
    let url = format!("https://a.example.com:{}/", stage.https.port());
    assert_eq!(
        made,
        (200, json!({"accepted": [{"hostname": "a.example.com", "path": "/", "url": url}], "rejected": []}))
    );
    for (path, who, body, status) in [
        ("/register", &other, route("a.example.com", json!({"path": "/x"})), 409),
        ("/register", &other, route("*.example.com", json!({})), 409),
        ("/register", &user, route("b.example.com", json!({})), 403),
        ("/register", &"none".to_owned(), route("b.example.com", json!({})), 401),
        ("/register", &stage.secret, route("b.example.com", json!({"cluster_uuid": "other"})), 403),
        ("/register", &stage.secret, route("b..com", json!({})), 400),
        ("/register", &stage.secret, route("b.com", json!({"service_name": "10.0.0.1"})), 400),
        ("/register", &stage.secret, json!([]), 400),
        ("/sync", &stage.secret, json!({}), 400),
        ("/sync", &stage.secret, json!({"cluster_uuid": "other", "ingresses": []}), 403),
        ("", &stage.secret, json!({}), 405),
        ("/other", &stage.secret, json!({}), 404),
    ] {
        let (got, said) = stage.api(path, who, &body).await;
        assert_eq!((got, &said["kind"]), (status, &"Status".into()), "{path} {body}: {said}");
        if status == 409 {
            assert!(said["message"].as_str().unwrap().contains(r#"belongs to cluster "prod""#), "{said}");
        }
    }
    let synced = stage
        .api(
            "/sync",
            &other,
            &json!({"cluster_uuid": "other", "ingresses": [
                ingress("a.example.com", false, &[("/", "web")]),
                ingress("c.example.com", false, &[("/", "web"), ("/", "web"), ("/", "api"), ("x", "web")]),
                {"namespace": "shop"},
            ]}),
        )
        .await;
    assert_eq!(synced.1["accepted"].as_array().unwrap().len(), 1, "{synced:?}");
    let rejected: Vec<_> =
        synced.1["rejected"].as_array().unwrap().iter().map(|one| one["reason"].as_str().unwrap()).collect();
    assert!(rejected[0].contains("missing field"), "{rejected:?}");
    assert!(rejected[1].contains("has the same hostname and path"), "{rejected:?}");
    assert!(rejected[2].contains("does not begin with '/'"), "{rejected:?}");
    assert!(rejected[3].contains(r#"belongs to cluster "prod""#) && rejected.len() == 4, "{rejected:?}");

    let hostnames = |list: &Value| {
        list.as_array().unwrap().iter().map(|one| one["hostname"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for (who, seen) in [
        (&stage.secret, vec!["a.example.com"]),
        (&user, vec!["a.example.com"]),
        (&other, vec!["c.example.com"]),
        (&stranger, vec![]),
    ] {
        assert_eq!(hostnames(&stage.api("", who, &Value::Null).await.1), seen);
    }

    // They are there after a restart, before any agent is.
    drop(app);
    stage.server.terminate().await;
    while stage.server.line().await.is_some() {}
    (stage.server, stage.http, stage.https) = start(&data, &[]).await;
    let mut client = Client::http(stage.http).await;
    assert_eq!(client.get("c.example.com", "/", &[]).await.status, 503);
    let _app = App::of(&stage).await;
    let gone = stage.api("/unregister", &stage.secret, &json!({"hostname": "A.Example.com"})).await;
    assert_eq!(gone, (200, json!({"accepted": [], "rejected": []})));
    assert_eq!(client.get("a.example.com", "/", &[]).await.status, 404);
    // Nobody's now.
    let taken = stage.api("/register", &other, &route("a.example.com", json!({}))).await;
    assert_eq!(taken.0, 200, "{taken:?}");
    // An empty set is a set.
    assert_eq!(stage.api("/sync", &other, &json!({"ingresses": null})).await.0, 200);
    assert_eq!(stage.api("", &other, &Value::Null).await, (200, json!([])));
}

#[tokio::test]
async fn a_thousand_routes_are_one_sync() {
    let stage = Stage::set(&[]).await;
    let _app = App::of(&stage).await;
    let routes: Vec<Value> = (0..1000).map(|n| ingress(&format!("h{n}.example.com"), false, &[("/", "web")])).collect();
    let answer = stage.sync(&routes).await;
    assert_eq!(answer["accepted"].as_array().unwrap().len(), 1000);
    let mut client = Client::http(stage.http).await;
    assert_eq!(client.get("h999.example.com", "/", &[]).await.status, 200);
    stage.sync(&routes[..999]).await;
    assert_eq!(client.get("h999.example.com", "/", &[]).await.status, 404);
}

#[tokio::test]
async fn routes_that_are_not_refreshed_are_no_longer_served() {
    let mut stage = Stage::set(&[("PIPEOPS_GATEWAY_ROUTE_TTL", "1s")]).await;
    let _app = App::of(&stage).await;
    stage.sync(&[ingress("a.example.com", false, &[("/", "web")])]).await;
    stage.server.says("routes are dropped").await;
    let mut client = Client::http(stage.http).await;
    let gone = timeout(SOON, async { while client.get("a.example.com", "/", &[]).await.status != 404 {} });
    gone.await.expect("it is still served");
}

#[tokio::test]
async fn without_a_listener_there_is_no_url() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path();
    let server = crate::control_plane::ControlPlane::start(data, &[]).await;
    let secret = token(data, &["create", "--agent", "--cluster", "prod"]).await;
    let _app = App::start(&server, data, &secret, true).await;
    let mut connection = server.connect(&ca(data)).await.unwrap();
    let set = json!({"ingresses": [ingress("a.example.com", false, &[("/", "web")])]});
    let (status, answer) = ask(&mut connection, "POST", "/api/v1/gateway/routes/sync", &secret, &set).await;
    let reason = answer["rejected"][0]["reason"].as_str().unwrap();
    assert!(status == 200 && reason.contains("gateway.http_listen"), "{answer}");
    assert_eq!(get(&mut connection, "/api/v1/gateway/routes", &secret).await, (200, "[]".into()));
}
