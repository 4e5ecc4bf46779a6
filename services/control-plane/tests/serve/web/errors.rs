use tokio::time::timeout;

use super::app::App;
use super::client::Client;
use super::{Stage, ingress};
use crate::control_plane::SOON;

#[tokio::test]
async fn a_visitor_is_told_why_there_is_no_app() {
    let stage = Stage::set(&[]).await;
    let app = App::of(&stage).await;
    stage.sync(&[ingress("a.example.com", false, &[("/away", "web"), ("/busy", "web")])]).await;
    let mut client = Client::http(stage.http).await;
    let unknown = client.get("b.example.com", "/", &[]).await;
    assert_eq!((unknown.status.as_u16(), unknown.text()), (404, "There is no app at b.example.com.\n"));
    assert_eq!(client.get("eve@a.example.com", "/busy", &[]).await.status, 400);
    let mut client = Client::http(stage.http).await;
    let page = client.get("b.example.com", "/", &[("accept", "text/html,*/*")]).await;
    assert!(page.text().contains("<p>There is no app at b.example.com.</p>"), "{}", page.text());
    let below = client.get("a.example.com", "/other", &[]).await;
    assert_eq!((below.status.as_u16(), below.text()), (404, "There is nothing at /other of a.example.com.\n"));
    let away = client.get("a.example.com", "/away", &[]).await;
    assert_eq!((away.status.as_u16(), away.text()), (502, "a.example.com gives no answer.\n"));
    for path in ["/busy/../away", "/busy/%2E%2e/away", "/busy/..%2Faway", "/.", "/busy\\..\\away"] {
        assert_eq!(client.get("a.example.com", path, &[]).await.status, 400, "{path}");
    }
    // What the app itself says is its own.
    assert_eq!(client.get("a.example.com", "/busy", &[]).await.text(), "");
    drop(app);
    let gone = timeout(SOON, async {
        loop {
            let answer = client.get("a.example.com", "/busy", &[]).await;
            if answer.headers.contains_key("retry-after") {
                return answer;
            }
        }
    });
    let gone = gone.await.expect("the agent is not missed");
    assert_eq!((gone.status.as_u16(), &gone.headers["retry-after"]), (503, &"5".parse().unwrap()));
    assert!(gone.text().starts_with("a.example.com cannot be reached now: its cluster is not connected"));
}

#[tokio::test]
async fn an_app_with_tls_is_asked_for_over_https() {
    let stage = Stage::set(&[("PIPEOPS_GATEWAY_HTTPS_PORT", "443")]).await;
    let _app = App::of(&stage).await;
    let answer = stage.sync(&[ingress("a.example.com", true, &[("/", "web")])]).await;
    assert_eq!(answer["accepted"][0]["url"], "https://a.example.com/");
    let mut client = Client::http(stage.http).await;
    let moved = client.get("a.example.com:8080", "/x?y=1", &[("x-forwarded-proto", "https")]).await;
    assert_eq!(
        (moved.status.as_u16(), &moved.headers["location"]),
        (308, &"https://a.example.com/x?y=1".parse().unwrap())
    );
}

#[tokio::test]
async fn what_is_asked_of_a_cluster_is_limited() {
    let stage = Stage::set(&[("PIPEOPS_LINKS_REQUESTS_PER_SECOND", "1"), ("PIPEOPS_LINKS_REQUESTS_BURST", "1")]).await;
    let _app = App::of(&stage).await;
    stage.sync(&[ingress("a.example.com", false, &[("/", "web")])]).await;
    let mut client = Client::http(stage.http).await;
    assert_eq!(client.get("a.example.com", "/", &[]).await.status, 200);
    let refused = client.get("a.example.com", "/", &[]).await;
    assert_eq!((refused.status.as_u16(), &refused.headers["retry-after"]), (429, &"1".parse().unwrap()));
    assert_eq!(stage.server.metric(r#"pipeops_control_plane_requests_limited_total{limit="rate"}"#).await, 1.0);
}

#[tokio::test]
async fn a_visitor_is_told_the_agents_words_where_that_is_wished() {
    let stage = Stage::set(&[("PIPEOPS_GATEWAY_EXPLAIN_ERRORS", "true")]).await;
    let _app = App::of(&stage).await;
    stage.sync(&[ingress("a.example.com", false, &[("/away", "web")])]).await;
    let mut client = Client::http(stage.http).await;
    let away = client.get("a.example.com", "/away", &[]).await;
    assert_eq!((away.status.as_u16(), away.text()), (502, "a.example.com gives no answer: no Service shop/<web>\n"));
    let page = client.get("a.example.com", "/away", &[("accept", "text/html")]).await;
    assert!(page.text().contains("shop/&lt;web&gt;"), "{}", page.text());
}
