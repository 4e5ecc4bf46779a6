use super::*;
use std::fs;
use tempfile::TempDir;
use tokio::time::timeout;

fn clusters(place: &TempDir) -> Arc<Clusters> {
    Arc::new(Clusters::open(Folder::open(place.path().join("clusters")).unwrap()).unwrap())
}

fn agent(id: &str) -> AgentId {
    AgentId::new(id.to_owned()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registrations_at_the_same_time_make_one_record() {
    let place = tempfile::tempdir().unwrap();
    let clusters = clusters(&place);
    let mut all = tokio::task::JoinSet::new();
    for turn in 0..32 {
        let clusters = Arc::clone(&clusters);
        // Half of them are other agents, none of which has a link yet.
        all.spawn(async move { clusters.register("prod", &agent(&format!("agent-{}", turn % 2))).await.unwrap() });
    }
    let registered = all.join_all().await;
    let id = registered[0].record().id.clone();
    for cluster in &registered {
        assert!(Arc::ptr_eq(cluster, &registered[0]), "two clusters of one name");
    }
    let stored = clusters.folder.all().unwrap();
    assert_eq!(stored.records.iter().map(|record| record.id.clone()).collect::<Vec<_>>(), [id]);
    assert_eq!(stored.records[0].agent_id, registered[0].record().agent_id, "memory and file differ");
}

#[tokio::test]
async fn a_registration_whose_caller_is_gone_is_not_made_twice() {
    let place = tempfile::tempdir().unwrap();
    let clusters = clusters(&place);
    for _ in 0..20 {
        // Polled once: far enough for the file work to begin.
        drop(timeout(Duration::ZERO, clusters.register("prod", &agent("a"))).await);
    }
    let cluster = clusters.register("prod", &agent("a")).await.unwrap();
    let stored = clusters.folder.all().unwrap().records;
    assert_eq!(stored.len(), 1);
    assert_eq!(stored[0].id, cluster.record().id);
}

#[tokio::test]
async fn a_cluster_keeps_its_id_over_restarts_and_new_agents() {
    let place = tempfile::tempdir().unwrap();
    let first = clusters(&place).register("prod", &agent("a")).await.unwrap().record().clone();
    let again = clusters(&place).register("prod", &agent("b")).await.unwrap().record().clone();
    assert_eq!((first.id, first.created), (again.id, again.created));
    assert_eq!(clusters(&place).find("prod").unwrap().record().agent_id, Some(agent("b")));
}

#[tokio::test]
async fn a_damaged_record_gives_no_second_identity_and_the_others_are_served() {
    let place = tempfile::tempdir().unwrap();
    let before = clusters(&place).register("prod", &agent("a")).await.unwrap().record().clone();
    clusters(&place).register("other", &agent("o")).await.unwrap();
    let file = place.path().join("clusters/prod.json");
    let good = fs::read(&file).unwrap();
    fs::write(&file, &good[..good.len() / 2]).unwrap();

    let clusters = clusters(&place);
    assert!(clusters.find("other").is_some());
    let refused = clusters.register("prod", &agent("a")).await.unwrap_err();
    assert!(matches!(refused, RegistrationRefused::Store(StoreError::Corrupt { .. })), "{refused}");
    assert_eq!(fs::read(&file).unwrap(), &good[..good.len() / 2], "the damaged file was touched");
    // Mended, it counts without a restart.
    fs::write(&file, &good).unwrap();
    assert_eq!(clusters.register("prod", &agent("a")).await.unwrap().record().id, before.id);
}

#[tokio::test]
async fn what_cannot_be_stored_is_refused_and_changes_nothing() {
    let place = tempfile::tempdir().unwrap();
    let clusters = clusters(&place);
    clusters.register("prod", &agent("a")).await.unwrap();
    fs::remove_dir_all(place.path().join("clusters")).unwrap();
    for (name, by) in [("prod", "b"), ("new", "a")] {
        let refused = clusters.register(name, &agent(by)).await.unwrap_err();
        assert!(matches!(refused, RegistrationRefused::Store(StoreError::Write { .. })), "{refused}");
    }
    assert_eq!(clusters.find("prod").unwrap().record().agent_id, Some(agent("a")));
    assert!(clusters.find("new").is_none());
}
