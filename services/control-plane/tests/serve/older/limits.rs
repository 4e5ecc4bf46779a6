//! What may be asked of one cluster.

use http::Method;
use serde_json::json;

use super::agent::Stage;
use super::sockets::EXEC;
use super::user::{User, VERSIONS, Version, full, soon, websocket};

#[tokio::test]
async fn more_than_a_cluster_may_be_asked_at_once_is_refused_until_there_is_place() {
    let stage = Stage::set(&[("PIPEOPS_LINKS_MAX_REQUESTS", "2")]).await;
    let mut agent = stage.agent().await;
    let mut user = User::connect(&stage, Version::Http2).await;
    let (watch, session) = (user.get("/api/v1/pods?watch=1").await, websocket(&stage, EXEC, "v4.channel.k8s.io"));
    let id = agent.hear("proxy_request").await.id;
    let (session, _) = session.await.unwrap();
    agent.hear("proxy_websocket_start").await;
    for version in VERSIONS {
        let mut other = User::connect(&stage, version).await;
        let refused = soon(other.get("/api/v1/pods").await).await;
        assert_eq!((refused.status.as_u16(), &refused.headers["retry-after"]), (429, &"1".parse().unwrap()));
        assert!(refused.message().contains("2 requests are under way at once (links.max_requests)"), "{refused:?}");
        assert!(refused.text().contains("\"reason\":\"TooManyRequests\""));
    }
    let limited = stage.server.metric(r#"pipeops_control_plane_requests_limited_total{limit="open"}"#).await;
    assert!((limited - 2.0).abs() < 0.1, "{limited}");
    // Each of them makes place when it ends.
    drop(session);
    agent.hear("proxy_websocket_close").await;
    for _ in 0..3 {
        let answer = user.get("/api/v1/pods").await;
        let asked = agent.hear("proxy_request").await;
        agent.answer(&asked.id, "pods").await;
        assert_eq!(soon(answer).await.text(), "pods");
    }
    agent.say("proxy_response", Some(&id), json!({"status": 200, "headers": {}})).await;
    assert!(soon(watch).await.whole);
}

#[tokio::test]
async fn more_than_a_cluster_may_be_asked_in_a_second_is_refused() {
    let settings = [("PIPEOPS_LINKS_REQUESTS_PER_SECOND", "1"), ("PIPEOPS_LINKS_REQUESTS_BURST", "3")];
    let stage = Stage::set(&settings).await;
    let mut agent = stage.agent().await;
    let mut user = User::connect(&stage, Version::Http1).await;
    let mut refused = 0;
    for i in 0..20 {
        let asked = user.ask(Method::GET, "/metrics", &[], full("")).await;
        let answer = soon(asked).await;
        match answer.status.as_u16() {
            404 => assert!(refused > 0 || i < 5),
            429 => {
                assert!(answer.message().contains("more than 1 requests per second"), "{}", answer.message());
                refused += 1;
            }
            status => panic!("{status}"),
        }
    }
    assert!(refused > 10, "{refused}");
    let limited = stage.server.metric(r#"pipeops_control_plane_requests_limited_total{limit="rate"}"#).await;
    assert!((limited - f64::from(refused)).abs() < 0.1, "{limited}");
    // What is not the cluster's is not limited, nor is the link.
    for _ in 0..10 {
        let mut connection = stage.server.connect(&stage.ca).await.unwrap();
        assert_eq!(crate::control_plane::get(&mut connection, "/api/v1/clusters", &stage.user).await.0, 200);
    }
    agent.is_served().await;
}
