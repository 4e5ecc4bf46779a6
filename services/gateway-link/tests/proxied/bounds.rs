//! What holds when somebody does not keep up.

use crate::backend::Event;
use crate::control_plane::ControlPlane;
use crate::{STREAMED, Settings, TOKEN, cluster_with};

const STUCK: &str = "/api/v1/stuck";

fn small(waiting: usize, waiting_total: usize) -> Settings {
    let mut settings = Settings::default();
    settings.link.proxied.waiting = waiting;
    settings.link.proxied.waiting_total = waiting_total;
    settings
}

/// An upload that its server does not read.
async fn upload(control_plane: &mut ControlPlane, id: &str) {
    control_plane.request(id, &format!(r#""method":"PUT","path":"{STUCK}","use_streaming":true,{TOKEN}"#)).await;
}

/// Sends pieces until the exchange ends; what it said in the end, and how often it said `backpressure`.
async fn fill(control_plane: &mut ControlPlane, id: &str) -> (crate::control_plane::Got, usize) {
    let mut warned = 0;
    for _ in 0..200 {
        control_plane.chunk(id, &[7; 64 * 1024]).await;
        control_plane.ping(&format!("after a piece of {id}")).await;
        while let Some(got) = control_plane.waiting_of(id) {
            if got.kind == "backpressure" {
                assert_eq!((got.text("request_id"), got.text("reason")), (id, "channel_full"));
                warned += 1;
            } else {
                return (got, warned);
            }
        }
    }
    panic!("13 MB were taken for a server that reads nothing");
}

#[tokio::test]
async fn an_upload_that_is_not_taken_ends_and_holds_up_nobody() {
    let (mut control_plane, mut api) = cluster_with(&[], small(1 << 20, 64 << 20)).await;
    upload(&mut control_plane, "r1").await;
    api.saw(Event::Begun(STUCK.to_owned())).await;
    let (got, warned) = fill(&mut control_plane, "r1").await;
    assert!(got.kind == "proxy_error" && got.error().contains("proxied.waiting "), "{got:?}");
    assert_eq!(warned, 1);
    api.read.notify_one();
    api.saw(Event::Cancelled(STUCK.to_owned())).await;
    // Pieces that were on their way have no effect.
    control_plane.chunk("r1", b"late").await;
    control_plane.request("r2", &format!(r#""path":"/api/v1/gzip",{TOKEN}"#)).await;
    assert_eq!(control_plane.of("r2").await.kind, "proxy_response");
    assert!(control_plane.is_silent_about("r1").await);
}

#[tokio::test]
async fn all_exchanges_of_a_link_together_have_their_bound() {
    let (mut control_plane, mut api) = cluster_with(&[], small(4 << 20, 2 << 20)).await;
    for id in ["r1", "r2", "r3"] {
        upload(&mut control_plane, id).await;
        api.saw(Event::Begun(STUCK.to_owned())).await;
    }
    // Half of what all may have.
    for _ in 0..20 {
        control_plane.chunk("r1", &[7; 64 * 1024]).await;
    }
    let (got, _) = fill(&mut control_plane, "r2").await;
    assert!(got.kind == "proxy_error" && got.error().contains("proxied.waiting_total"), "{got:?}");
    // The other one has lost nothing, and there is room for what the ended one had.
    control_plane.chunk("r3", &[7; 64 * 1024]).await;
    assert!(control_plane.is_silent_about("r3").await && control_plane.is_silent_about("r1").await);
}

#[tokio::test]
async fn answers_that_are_gathered_count_too() {
    let (mut control_plane, _api) = cluster_with(&[], small(4 << 20, 256 * 1024)).await;
    control_plane.request("r1", &format!(r#""path":"/api/v1/large",{TOKEN}"#)).await;
    let got = control_plane.of("r1").await;
    assert!(got.kind == "proxy_error" && got.error().contains("proxied.waiting_total"), "{got:?}");
    control_plane.request("r2", &format!(r#""path":"/api/v1/gzip",{TOKEN}"#)).await;
    assert_eq!(control_plane.of("r2").await.kind, "proxy_response", "what it had is given back");
}

#[tokio::test]
async fn there_are_no_more_exchanges_than_may_be() {
    let mut settings = Settings::default();
    settings.link.proxied.max_exchanges = 2;
    let (mut control_plane, mut api) = cluster_with(&[], settings).await;
    for id in ["r1", "r2"] {
        upload(&mut control_plane, id).await;
        api.saw(Event::Begun(STUCK.to_owned())).await;
    }
    control_plane.request("r3", &format!(r#""path":"/api/v1/gzip",{TOKEN}"#)).await;
    let got = control_plane.of("r3").await;
    assert!(got.kind == "proxy_error" && got.error().contains("max_exchanges"), "{got:?}");
    control_plane.send("proxy_cancel", "r1", "{}").await;
    api.read.notify_one();
    api.saw(Event::Cancelled(STUCK.to_owned())).await;
    control_plane.ping("the cancelled one is put away").await;
    control_plane.request("r4", &format!(r#""path":"/api/v1/gzip",{TOKEN}"#)).await;
    assert_eq!(control_plane.of("r4").await.kind, "proxy_response");
}

/// What nobody reads waits where it comes from.
#[tokio::test]
async fn an_answer_without_end_waits_for_a_control_plane_that_does_not_read() {
    let (mut control_plane, mut api) = cluster_with(&[], Settings::default()).await;
    for id in ["r1", "r2", "r3"] {
        control_plane.request(id, &format!(r#""path":"/api/v1/flood",{TOKEN},{STREAMED}"#)).await;
        assert_eq!(control_plane.of(id).await.kind, "proxy_response_header");
    }
    let mut last = usize::MAX;
    let mut looks = 0;
    // Each request that gets through on the same way gives the floods their turns, and they have nothing to do in them.
    for n in 0.. {
        if looks == 20 {
            break;
        }
        control_plane.request(&format!("small {n}"), &format!(r#""path":"/api/v1/gzip",{TOKEN}"#)).await;
        api.saw(Event::Begun("/api/v1/gzip".to_owned())).await;
        let now = api.flooded.load(std::sync::atomic::Ordering::Relaxed);
        looks = if now == last { looks + 1 } else { 0 };
        last = now;
        assert!(now < 64 << 20, "{now} bytes were taken for nobody");
    }
    // And it goes on, each of them, with a ping between.
    control_plane.ping("behind what waited").await;
    for id in ["r1", "r2", "r3"] {
        for _ in 0..300 {
            assert_eq!(control_plane.of(id).await.kind, "proxy_response_chunk");
        }
        control_plane.send("proxy_cancel", id, "{}").await;
    }
    control_plane.ping("after all of it").await;
}

#[tokio::test]
async fn many_answers_at_once_are_each_complete() {
    let (mut control_plane, _api) = cluster_with(&[], Settings::default()).await;
    let ids: Vec<String> = (0..24).map(|n| format!("r{n}")).collect();
    for id in &ids {
        control_plane.request(id, &format!(r#""path":"/api/v1/large",{TOKEN},{STREAMED}"#)).await;
    }
    control_plane.ping("behind 24 MB").await;
    for id in &ids {
        assert!(control_plane.answer(id).await.1 == crate::backend::large(), "{id}");
    }
}

/// Whatever comes, in whatever order: the link lives on, and each name can be used again in the end.
#[tokio::test]
async fn no_order_of_messages_breaks_the_link_or_leaves_an_exchange_behind() {
    let service = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let services = [("shop/web:80", service.local_addr().unwrap())];
    let (mut control_plane, _api) = cluster_with(&services, small(64 * 1024, 256 * 1024)).await;
    let ids = ["a", "b", "c", "d"];
    let web = r#""service_name":"web","service_namespace":"shop","service_port":80"#;
    let mut random = 7u64;
    let mut next = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((random >> 33) % below).unwrap()
    };
    for round in 0..600 {
        let id = ids[next(4)];
        let path = ["echo", "large", "watch", "stuck", "flood", "nothing"][next(6)];
        let exec = format!(r#"{{"stream_id":"{id}","path":"/api/v1/{path}/exec",{TOKEN}}}"#);
        let closing = format!(r#"{{"stream_id":"{id}"}}"#);
        match next(15) {
            0 => control_plane.request(id, &format!(r#""path":"/api/v1/{path}",{TOKEN},{STREAMED}"#)).await,
            1 => control_plane.request(id, &format!(r#""path":"/api/v1/{path}","use_streaming":true,{TOKEN}"#)).await,
            2 => control_plane.request(id, &format!(r#""path":"/api/v1/{path}","body_binary":true,{TOKEN}"#)).await,
            3 | 4 => control_plane.chunk(id, &vec![7; next(40_000)]).await,
            5 => control_plane.send("proxy_request_stream_end", id, "{}").await,
            6 => control_plane.send("proxy_cancel", id, "{}").await,
            7 => control_plane.binary(id, &vec![7; next(40_000)]).await,
            8 => control_plane.send("proxy_websocket_start", id, &exec).await,
            9 => control_plane.websocket(id, [1, 2, 8, 9, 10, 3][next(6)], &vec![b'x'; next(30_000)]).await,
            10 => control_plane.send("proxy_websocket_close", id, &closing).await,
            11 => control_plane.send("tcp_tunnel_start", id, &format!("{{{web}}}")).await,
            12 => control_plane.send("tcp_tunnel_data", id, r#"{"data":"eA=="}"#).await,
            13 => control_plane.send("tcp_tunnel_close", id, r#"{"reason":"x"}"#).await,
            _ => control_plane.send("proxy_request_chunk", id, r#"{"data":7}"#).await,
        }
        if round % 50 == 0 {
            control_plane.ping(&format!("after {round}")).await;
            control_plane.forget();
        }
    }
    for id in ids {
        control_plane.gone(id).await;
    }
    control_plane.ping("after all of it").await;
}
