//! Request and reply.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bus::{Bus, Request, RequestError, Service, Serving};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::harness::{Ask, Backend, Refused, ask, connected, eventually, within};

contract! {
    a_reply_is_typed
    a_typed_error_reaches_the_caller
    no_responder_is_known_at_once
    a_panicking_handler_is_answered
    a_queue_group_shares_requests_and_each_is_handled_once
    a_slow_handler_delays_no_other
    too_many_at_once_are_told_so
    a_dropped_service_answers_what_it_had
    a_stopped_service_finishes_what_it_had
    another_shape_is_malformed
}

/// Serves until dropped; the server knows of it when this returns.
async fn serve<H, Fut>(bus: &Bus, caller: &Bus, handler: H) -> Serving
where
    H: Fn(Ask) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<String, Refused>> + Send + 'static,
{
    let handler = Arc::new(handler);
    let serving = bus
        .serve::<Ask, _, _>(move |request| {
            let handler = Arc::clone(&handler);
            async move { if request.text == "ready?" { Ok("yes".to_owned()) } else { handler(request).await } }
        })
        .await
        .unwrap();
    let begun = Instant::now();
    while caller.request(&ask("ready?")).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(5), "the service does not become reachable");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    serving
}

async fn two(backend: &Backend) -> (Bus, Bus) {
    (backend.bus(Service::StateKeeper).await, backend.bus(Service::GatewayLink).await)
}

async fn a_reply_is_typed(backend: &Backend) {
    let (server, caller) = two(backend).await;
    let _serving = serve(&server, &caller, async |request: Ask| Ok(request.text.to_uppercase())).await;
    assert_eq!(caller.request(&ask("hé")).await.unwrap(), "HÉ");
    let answers = futures::future::join_all((0..100).map(|n| {
        let caller = caller.clone();
        async move { caller.request(&ask(&format!("n{n}"))).await.unwrap() }
    }))
    .await;
    for (n, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer, format!("N{n}"));
    }
}

async fn a_typed_error_reaches_the_caller(backend: &Backend) {
    let (server, caller) = two(backend).await;
    let _serving = serve(&server, &caller, async |_| Err(Refused { code: 409 })).await;
    match caller.request(&ask("x")).await {
        Err(RequestError::Typed(error)) => assert_eq!(error, Refused { code: 409 }),
        other => panic!("{other:?}"),
    }
}

async fn no_responder_is_known_at_once(backend: &Backend) {
    let caller = backend.bus(Service::GatewayLink).await;
    let request = ask("x");
    let answer = within(Duration::from_secs(1), "an answer without a service", caller.request(&request)).await;
    assert!(matches!(answer, Err(RequestError::NoResponder)), "{answer:?}");
}

async fn a_panicking_handler_is_answered(backend: &Backend) {
    let (server, caller) = two(backend).await;
    let _serving = serve(&server, &caller, async |request: Ask| {
        assert_ne!(request.text, "panic", "on purpose");
        Ok(request.text)
    })
    .await;
    let request = ask("panic");
    let answer = within(Duration::from_secs(2), "an answer to a panic", caller.request(&request)).await;
    assert!(matches!(&answer, Err(RequestError::Unavailable(why)) if why.contains("failed")), "{answer:?}");
    assert_eq!(caller.request(&ask("still there")).await.unwrap(), "still there");
}

async fn a_queue_group_shares_requests_and_each_is_handled_once(backend: &Backend) {
    let caller = backend.bus(Service::GatewayLink).await;
    let mut instances = Vec::new();
    for _ in 0..2 {
        let bus = backend.bus(Service::StateKeeper).await;
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let serving = bus.serve::<Ask, _, _>(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            async { Ok(String::new()) }
        });
        instances.push((serving.await.unwrap(), count, bus));
    }
    // Until the server knows both.
    let begun = Instant::now();
    while instances.iter().any(|(_, count, _)| count.load(Ordering::Relaxed) == 0) {
        let _ = caller.request(&ask("")).await;
        assert!(begun.elapsed() < Duration::from_secs(5), "one instance gets no request");
    }
    let before = instances.iter().map(|(_, count, _)| count.swap(0, Ordering::Relaxed)).sum::<usize>();
    assert!(before > 0);
    for _ in 0..200 {
        caller.request(&ask("")).await.unwrap();
    }
    let counts = instances.iter().map(|(_, count, _)| count.load(Ordering::Relaxed)).collect::<Vec<_>>();
    assert_eq!(counts.iter().sum::<usize>(), 200, "{counts:?}");
    assert!(counts.iter().all(|count| *count > 20), "{counts:?}");
}

async fn a_slow_handler_delays_no_other(backend: &Backend) {
    let (server, caller) = two(backend).await;
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let serving = serve(&server, &caller, move |request: Ask| {
        let held = Arc::clone(&held);
        async move {
            if request.text == "slow" {
                held.acquire().await.unwrap().forget();
            }
            Ok(request.text)
        }
    });
    let _serving = serving.await;
    let slow = tokio::spawn({
        let caller = caller.clone();
        async move { caller.request(&ask("slow")).await }
    });
    for _ in 0..50 {
        assert_eq!(caller.request(&ask("quick")).await.unwrap(), "quick");
    }
    assert!(!slow.is_finished());
    gate.add_permits(1);
    assert_eq!(within(Duration::from_secs(2), "the slow answer", slow).await.unwrap().unwrap(), "slow");
}

async fn too_many_at_once_are_told_so(backend: &Backend) {
    let (server, caller) = two(backend).await;
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let serving = serve(&server, &caller, move |_| {
        let held = Arc::clone(&held);
        async move {
            held.acquire().await.unwrap().forget();
            Ok(String::new())
        }
    });
    let _serving = serving.await;
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..300 {
        let caller = caller.clone();
        requests.spawn(async move { caller.request(&ask("held")).await });
    }
    let first = within(Duration::from_secs(3), "an answer to one too many", requests.join_next()).await;
    let first = first.unwrap().unwrap();
    assert!(matches!(&first, Err(RequestError::Unavailable(why)) if why.contains("too many")), "{first:?}");
    gate.add_permits(300);
    let mut served = 0;
    while let Some(answer) = requests.join_next().await {
        served += usize::from(answer.unwrap().is_ok());
    }
    assert!(served >= 256, "{served}");
}

async fn a_dropped_service_answers_what_it_had(backend: &Backend) {
    let (server, caller) = two(backend).await;
    let begun = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&begun);
    let serving = serve(&server, &caller, move |_| {
        seen.fetch_add(1, Ordering::Relaxed);
        std::future::pending()
    });
    let serving = serving.await;
    let waiting = tokio::spawn({
        let caller = caller.clone();
        async move { caller.request(&ask("never")).await }
    });
    eventually(Duration::from_secs(2), "the handler runs", || {
        if begun.load(Ordering::Relaxed) == 1 { Ok(()) } else { Err(()) }
    })
    .await;
    drop(serving);
    let answer = within(Duration::from_secs(2), "an answer from a dropped service", waiting).await.unwrap();
    assert!(matches!(&answer, Err(RequestError::Unavailable(why)) if why.contains("stopped")), "{answer:?}");
}

async fn a_stopped_service_finishes_what_it_had(backend: &Backend) {
    let (server, caller) = two(backend).await;
    let (gate, begun) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (held, seen) = (Arc::clone(&gate), Arc::clone(&begun));
    let serving = serve(&server, &caller, move |request: Ask| {
        let (held, seen) = (Arc::clone(&held), Arc::clone(&seen));
        async move {
            seen.add_permits(1);
            held.acquire().await.unwrap().forget();
            Ok(request.text)
        }
    });
    let serving = serving.await;
    let waiting = tokio::spawn({
        let caller = caller.clone();
        async move { caller.request(&ask("last")).await }
    });
    within(Duration::from_secs(2), "the handler runs", begun.acquire()).await.unwrap().forget();
    let stopping = tokio::spawn(serving.stop());
    let begun = Instant::now();
    loop {
        match tokio::time::timeout(Duration::from_millis(100), caller.request(&ask("late"))).await {
            Ok(Err(RequestError::NoResponder)) => break,
            // Taken before the server knew that it stops.
            _ => assert!(begun.elapsed() < Duration::from_secs(3), "a stopped service still gets requests"),
        }
    }
    gate.add_permits(100);
    assert_eq!(within(Duration::from_secs(2), "the last answer", waiting).await.unwrap().unwrap(), "last");
    within(Duration::from_secs(2), "stop completes", stopping).await.unwrap();
}

/// `Ask` as another version of the caller might send it.
#[derive(Serialize, Deserialize)]
struct Other {
    number: u32,
}

impl Request for Other {
    type Error = Refused;
    type Reply = u32;

    const SERVED_BY: Service = Ask::SERVED_BY;
    const SUBJECT: &'static str = Ask::SUBJECT;
}

async fn another_shape_is_malformed(backend: &Backend) {
    let (server, caller) = two(backend).await;
    let _serving = serve(&server, &caller, async |request: Ask| Ok(request.text)).await;
    let answer = caller.request(&Other { number: 1 }).await;
    assert!(matches!(&answer, Err(RequestError::Malformed(why)) if why.contains("text")), "{answer:?}");
}

#[tokio::test]
async fn an_answer_larger_than_the_bus_allows_is_said_to_be() {
    let backend = Backend::nats().await;
    let (server, caller) = two(&backend).await;
    connected(&server).await;
    let _serving = serve(&server, &caller, async |_| Ok("x".repeat(2 << 20))).await;
    let answer = caller.request(&ask("big")).await;
    assert!(matches!(&answer, Err(RequestError::Malformed(why)) if why.contains("larger")), "{answer:?}");
}
