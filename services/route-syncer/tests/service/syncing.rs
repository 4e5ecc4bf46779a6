use std::time::Duration;

use bus::routes::CallError;
use protocol::route::{AcceptedRoute, RejectedRoute, RouteAnswer};
use serde_json::json;

use crate::api::{INGRESSES, SERVICES};
use crate::world::{Call, Script, World};

const NONE: [&str; 0] = [];

fn ours(accepted: &[&str]) -> Option<RouteAnswer> {
    let accepted = accepted.iter().map(|host| AcceptedRoute {
        hostname: (*host).to_owned(),
        path: "/".to_owned(),
        url: format!("https://{host}/"),
    });
    Some(RouteAnswer { accepted: accepted.collect(), rejected: Vec::new() })
}

#[tokio::test(start_paused = true)]
async fn the_whole_set_goes_out_whenever_it_changes_and_an_empty_one_too() {
    let mut world = World::start(Script { answer: ours(&[]), ..Script::default() }).await;
    assert_eq!(world.synced().await, NONE);
    world.ingress("a", "a.example.com", "web");
    assert_eq!(world.synced().await, ["a.example.com"]);
    world.ingress("b", "b.example.com", "web");
    assert_eq!(world.synced().await, ["a.example.com", "b.example.com"]);
    world.ingress("a", "c.example.com", "web");
    assert_eq!(world.synced().await, ["c.example.com", "b.example.com"]);
    world.api.delete(SERVICES, "web");
    assert_eq!(world.synced().await, NONE, "their Service is gone");
    world.api.put(SERVICES, "shop", "web", json!({"spec": {"ports": [{"port": 80}]}}));
    assert_eq!(world.synced().await.len(), 2);
    world.api.delete(INGRESSES, "a");
    world.api.delete(INGRESSES, "b");
    assert_eq!(world.synced().await, NONE, "what changes at once goes out at once");
    world.ingress("other", "d.example.com", "none");
    world.is_quiet(Duration::from_secs(60)).await;
    assert!(world.context.health.is_ready(), "{:?}", world.context.health.not_ready());
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn from_a_control_plane_that_keeps_them_hostnames_that_are_no_more_are_taken_away() {
    let mut world = World::start(Script::default()).await;
    assert_eq!(world.synced().await, NONE);
    world.ingress("a", "a.example.com", "web");
    assert_eq!(world.synced().await, ["a.example.com"]);
    world.ingress("a", "b.example.com", "web");
    assert_eq!(world.synced().await, ["b.example.com"]);
    assert_eq!(world.call().await, Call::Unregister("a.example.com".to_owned()));
    // One that was never taken needs no taking away; one that was does, however many attempts it takes.
    let away = || CallError::Unreachable { reason: "away".to_owned() };
    world.script(|script| script.refusals.extend([away(), away()]));
    world.ingress("a", "c.example.com", "web");
    for _ in 0..3 {
        assert_eq!(world.synced().await, ["c.example.com"]);
    }
    assert_eq!(world.call().await, Call::Unregister("b.example.com".to_owned()));
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_tried_again_for_ever_and_at_once_after_a_new_link() {
    let away = CallError::NotConnected { reason: "not registered yet".to_owned() };
    let mut world = World::start(Script { refusals: vec![away; 12].into(), ..Script::default() }).await;
    let begun = tokio::time::Instant::now();
    for _ in 0..10 {
        world.call_within(Duration::from_secs(76)).await;
    }
    assert!(begun.elapsed() > Duration::from_secs(120), "attempts become rarer: {:?}", begun.elapsed());
    world.script(|script| script.links = 1);
    world.call_within(Duration::from_secs(3)).await;
    world.call_within(Duration::from_secs(3)).await;
    world.call_within(Duration::from_secs(3)).await;
    world.is_quiet(Duration::from_secs(3600)).await;
    world.script(|script| script.links = 2);
    world.call_within(Duration::from_secs(3)).await;
    world.call_within(Duration::from_secs(4 * 3600 + 5)).await;
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_does_not_lead_says_nothing_and_takes_over_with_what_is() {
    let mut world = World::start(Script { leader: Some("another".to_owned()), ..Script::default() }).await;
    world.ingress("a", "a.example.com", "web");
    world.is_quiet(Duration::from_secs(60)).await;
    assert!(world.context.health.is_ready(), "{:?}", world.context.health.not_ready());
    world.script(|script| script.leader = None);
    assert_eq!(world.synced().await, ["a.example.com"]);
    world.script(|script| script.leader = Some("another".to_owned()));
    world.is_quiet(Duration::from_secs(60)).await;
    world.ingress("a", "b.example.com", "web");
    world.is_quiet(Duration::from_secs(60)).await;
    world.script(|script| script.leader = None);
    assert_eq!(world.synced().await, ["b.example.com"]);
    let script = world.script.clone();
    world.stop().await;
    assert_eq!(script.lock().unwrap().released, 1);
}

#[tokio::test(start_paused = true)]
async fn an_ingress_shows_what_became_of_it_once_per_change() {
    let mut world = World::start(Script { answer: ours(&["a.example.com"]), ..Script::default() }).await;
    world.ingress("a", "a.example.com", "web");
    while world.synced().await != ["a.example.com"] {}
    let event = |reason: &str, note: &str| (reason.to_owned(), note.to_owned());
    assert_eq!(world.event(1).await, event("RoutePublished", "https://a.example.com/"));
    world.ingress("b", "b.example.com", "none");
    assert_eq!(world.event(2).await, event("RouteSkipped", r#"b.example.com/: there is no Service "none""#));
    let rejected =
        RejectedRoute { hostname: "a.example.com".to_owned(), path: "/".to_owned(), reason: "north has it".to_owned() };
    world.script(|script| {
        script.answer = Some(RouteAnswer { accepted: Vec::new(), rejected: vec![rejected] });
        script.links = 1;
    });
    world.call().await;
    assert_eq!(world.event(3).await, event("RouteRefused", "a.example.com/: north has it"));
    // Told again, and nothing new in it.
    world.script(|script| script.links = 2);
    world.call().await;
    world.is_quiet(Duration::from_secs(60)).await;
    world.event(3).await;
    world.script(|script| {
        script.answer = ours(&["a.example.com"]);
        script.links = 3;
    });
    assert_eq!(world.event(4).await, event("RoutePublished", "https://a.example.com/"));
    world.stop().await;
}
