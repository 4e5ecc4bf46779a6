use std::sync::{Arc, Mutex as StdMutex};

use serde_json::{Value, json};

use super::*;
use crate::fake::{Server, storage};
use crate::file::StateFile;
use crate::key::Key;

const OBJECT: &str = "leases/pipeops-agent-route-syncer";

/// One replica of state-keeper.
struct Replica {
    leases: Leases,
    storage: Storage,
}

impl Replica {
    fn of(server: &Arc<StdMutex<Server>>) -> Self {
        Self { leases: Leases::default(), storage: storage(server) }
    }

    async fn ask(&self, holder: &str, ttl_seconds: u32) -> Result<LeaseState, StateError> {
        let wanted = AcquireLease { name: LeaseName::RouteSyncer, holder: holder.to_owned(), ttl_seconds };
        self.leases.acquire(&self.storage, &wanted).await
    }

    /// Who has it after `holder` asked for 10 s.
    async fn holder(&self, holder: &str) -> String {
        let state = self.ask(holder, 10).await.unwrap();
        assert_eq!(state.held, state.holder == holder);
        state.holder
    }

    async fn release(&self, holder: &str) {
        let given = ReleaseLease { name: LeaseName::RouteSyncer, holder: holder.to_owned() };
        self.leases.release(&self.storage, &given).await.unwrap();
    }
}

fn spec(server: &Arc<StdMutex<Server>>) -> Value {
    server.lock().unwrap().objects[OBJECT]["spec"].clone()
}

async fn pass(seconds: u64) {
    tokio::time::advance(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn one_holds_it_until_its_time_is_over() {
    let server = Arc::default();
    let replica = Replica::of(&server);
    assert_eq!(replica.holder("a").await, "a");
    let first = spec(&server);
    assert_eq!((&first["holderIdentity"], &first["leaseDurationSeconds"]), (&json!("a"), &json!(10)));
    assert_eq!(first["leaseTransitions"], 0);
    for _ in 0..3 {
        pass(9).await;
        assert_eq!(replica.holder("b").await, "a");
        assert_eq!(replica.holder("a").await, "a");
    }
    assert_eq!(spec(&server)["acquireTime"], first["acquireTime"]);
    assert_ne!(spec(&server)["renewTime"], first["renewTime"]);
    pass(9).await;
    assert_eq!(replica.holder("b").await, "a", "a second too early");
    pass(1).await;
    assert_eq!(replica.holder("b").await, "b");
    assert_eq!(replica.holder("a").await, "b");
    assert_eq!(spec(&server)["leaseTransitions"], 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_given_back_is_free_at_once_and_only_its_holder_can() {
    let server = Arc::default();
    let replica = Replica::of(&server);
    replica.release("a").await;
    assert!(server.lock().unwrap().objects.is_empty(), "nothing was held");
    replica.holder("a").await;
    replica.release("b").await;
    assert_eq!(replica.holder("b").await, "a");
    replica.release("a").await;
    assert_eq!(replica.holder("b").await, "b");
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_has_just_started_waits_a_whole_term() {
    let server = Arc::default();
    let first = Replica::of(&server);
    first.holder("a").await;
    pass(9).await;
    let second = Replica::of(&server);
    assert_eq!(second.holder("b").await, "a");
    pass(9).await;
    assert_eq!(second.holder("b").await, "a", "nobody knows when it was asked for last");
    pass(1).await;
    assert_eq!(second.holder("b").await, "b");
    assert_eq!(first.holder("a").await, "b", "seen by the other replica");
}

#[tokio::test(start_paused = true)]
async fn a_term_renewed_by_way_of_another_replica_is_seen() {
    let server = Arc::default();
    let (one, other) = (Replica::of(&server), Replica::of(&server));
    for _ in 0..5 {
        assert_eq!(one.holder("a").await, "a");
        assert_eq!(other.holder("b").await, "a");
        pass(6).await;
        assert_eq!(other.holder("a").await, "a");
        pass(6).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_times_in_the_record_decide_nothing() {
    let server: Arc<StdMutex<Server>> = Arc::default();
    for (time, who) in [("1970-01-01T00:00:00.000000Z", "past"), ("2999-01-01T00:00:00.000000Z", "future")] {
        let spec = json!({"holderIdentity": who, "leaseDurationSeconds": 10, "renewTime": time, "acquireTime": time});
        let object = json!({"metadata": {"name": "pipeops-agent-route-syncer"}, "spec": spec});
        server.lock().unwrap().put(OBJECT, object);
        let replica = Replica::of(&server);
        assert_eq!(replica.holder("b").await, who);
        pass(9).await;
        assert_eq!(replica.holder("b").await, who);
        pass(1).await;
        assert_eq!(replica.holder("b").await, "b", "after {who}");
    }
}

#[tokio::test(start_paused = true)]
async fn of_many_who_ask_at_once_one_gets_it() {
    let server = Arc::default();
    let asks: Vec<_> = (0..6)
        .map(|i| {
            let replica = Replica::of(&server);
            tokio::spawn(async move { replica.ask(&format!("pod-{i}"), 10).await })
        })
        .collect();
    let mut states = Vec::new();
    for ask in asks {
        states.push(ask.await.unwrap().unwrap());
    }
    assert_eq!(states.iter().filter(|state| state.held).count(), 1, "{states:?}");
    assert!(states.iter().all(|state| state.holder == states[0].holder), "{states:?}");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_a_lease_is_refused() {
    let server = Arc::default();
    let replica = Replica::of(&server);
    for (holder, ttl) in [("a", 0), ("a", 3601), ("a", u32::MAX), ("", 10), ("a b", 10), (&"x".repeat(254), 10)] {
        let error = replica.ask(holder, ttl).await.unwrap_err();
        assert!(matches!(error, StateError::Invalid { .. }), "{error}");
    }
    server.lock().unwrap().fault = Some(403);
    let error = replica.ask("a", 10).await.unwrap_err();
    assert!(
        matches!(&error, StateError::Unavailable { reason } if reason.contains("pipeops-agent-route-syncer")),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn with_a_file_they_are_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let storage = Storage::File(StateFile::open(path.clone(), Key::new([1; 32]).unwrap()).unwrap());
    let replica = Replica { leases: Leases::default(), storage };
    assert_eq!(replica.holder("a").await, "a");
    assert_eq!(replica.holder("b").await, "a");
    pass(10).await;
    assert_eq!(replica.holder("b").await, "b");
    assert!(!path.exists());
}
