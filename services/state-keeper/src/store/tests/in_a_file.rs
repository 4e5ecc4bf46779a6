//! The same logic over a file: what a restart finds, and what becomes of a file that cannot be read.

use std::path::{Path, PathBuf};

use bus::state::{LinkToken, SaveLinkToken};
use protocol::ClusterConfig;

use super::*;
use crate::file::StateFile;
use crate::key::Key;

struct Place {
    folder: tempfile::TempDir,
    health: Health,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), health: Health::default() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// A process that has the file under this key. A former one has to be gone.
    fn start(&self, key: u8) -> Store {
        self.configured(key, None)
    }

    fn configured(&self, key: u8, agent: Option<&str>) -> Store {
        let file = StateFile::open(self.path(), Key::new([key; 32]).unwrap()).unwrap();
        let agent = agent.map(|id| id.parse().unwrap());
        Store::new(Storage::File(file), &crate::State::default(), agent, &self.health)
    }

    fn entries(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn link() -> LinkToken {
    LinkToken { token: Secret::new("l1nk-t0ken"), expires_at: "2026-11-27T12:00:00Z".parse().unwrap() }
}

fn says(error: &StateError, path: &Path, what: &str) {
    let name = path.to_str().unwrap();
    assert!(
        matches!(error, StateError::Corrupt { reason } if reason.contains(what) && reason.contains(name)),
        "{error}"
    );
}

#[tokio::test]
async fn all_of_it_is_found_after_a_restart() {
    let place = Place::new();
    let store = place.start(1);
    assert_eq!(store.config().await.unwrap().config, None);
    assert_eq!(place.entries(), ["state.lock"], "looking makes no file");
    let saved = store.save(registration("c-1", Some("cluster-t0ken"))).await.unwrap();
    store.save_link_token(SaveLinkToken { token: Some(link()) }).await.unwrap();
    let config = ClusterConfig { revision: 5, ..ClusterConfig::default() };
    store.save_config(SaveConfig { config: config.clone() }).await.unwrap();
    assert!(place.health.is_ready(), "{:?}", place.health);
    drop(store);

    let store = place.start(1);
    assert_eq!(store.identity().await.unwrap(), saved);
    assert_eq!(store.link_token().await.unwrap().token, Some(link()));
    assert_eq!(store.config().await.unwrap().config, Some(config));
    assert_eq!(place.entries(), ["state", "state.lock"]);
    let content = std::fs::read(place.path()).unwrap();
    for hidden in ["l1nk-t0ken", "cluster-t0ken", "c-1", saved.agent_id.as_str()] {
        assert!(!content.windows(hidden.len()).any(|part| part == hidden.as_bytes()), "{hidden} is in the clear");
    }
}

#[tokio::test]
async fn a_wrong_key_is_said_and_the_file_stays() {
    let place = Place::new();
    let saved = place.start(1).save(registration("c-1", Some("t"))).await.unwrap();
    let before = std::fs::read(place.path()).unwrap();
    let store = place.start(2);
    for error in [
        store.identity().await.unwrap_err(),
        store.save(registration("c-2", Some("t"))).await.unwrap_err(),
        store.save_link_token(SaveLinkToken { token: Some(link()) }).await.unwrap_err(),
        store.config().await.unwrap_err(),
    ] {
        says(&error, &place.path(), "another key");
    }
    assert!(!place.health.is_ready());
    drop(store);
    // A configured id does not make it begin anew either.
    says(&place.configured(2, Some("agent-fixed")).identity().await.unwrap_err(), &place.path(), "another key");
    assert_eq!(std::fs::read(place.path()).unwrap(), before);
    assert_eq!(place.start(1).identity().await.unwrap(), saved);
}

#[tokio::test]
async fn a_damaged_file_is_left_alone_also_by_a_process_that_knows_better() {
    let place = Place::new();
    let store = place.start(1);
    let saved = store.save(registration("c-1", Some("t"))).await.unwrap();
    let whole = std::fs::read(place.path()).unwrap();
    let (mut flipped, short) = (whole.clone(), &whole[..whole.len() / 2]);
    *flipped.last_mut().unwrap() ^= 1;
    for (content, what) in [(flipped.as_slice(), "damaged"), (short, "damaged"), (b"".as_slice(), "no state file")] {
        std::fs::write(place.path(), content).unwrap();
        says(&store.identity().await.unwrap_err(), &place.path(), what);
        says(&store.save(registration("c-1", Some("u"))).await.unwrap_err(), &place.path(), what);
        says(&store.check().await.unwrap_err(), &place.path(), what);
        assert_eq!(std::fs::read(place.path()).unwrap(), content);
        assert!(!place.health.is_ready());
    }
    std::fs::write(place.path(), whole).unwrap();
    assert_eq!(store.identity().await.unwrap(), saved);
    assert!(place.health.is_ready(), "{:?}", place.health);
}

#[tokio::test]
async fn moving_the_file_away_is_the_word_to_begin_anew() {
    let place = Place::new();
    let saved = place.start(1).save(registration("c-1", Some("t"))).await.unwrap();
    std::fs::rename(place.path(), place.folder.path().join("old")).unwrap();
    let fresh = place.start(2).identity().await.unwrap();
    assert_ne!(fresh.agent_id, saved.agent_id);
    assert_eq!(fresh.cluster_id, None);
}

#[tokio::test]
async fn a_file_that_went_away_comes_back_with_the_identity() {
    let place = Place::new();
    let store = place.start(1);
    let saved = store.save(registration("c-1", None)).await.unwrap();
    std::fs::remove_file(place.path()).unwrap();
    assert_eq!(store.identity().await.unwrap(), saved);
    drop(store);
    assert_eq!(place.start(1).identity().await.unwrap(), saved);
}

#[tokio::test]
async fn without_the_folder_the_identity_is_known_and_nothing_is_saved() {
    let place = Place::new();
    let store = place.start(1);
    store.save(registration("c-1", None)).await.unwrap();
    std::fs::remove_dir_all(place.folder.path()).unwrap();
    let error = store.save(registration("c-2", None)).await.unwrap_err();
    assert!(matches!(&error, StateError::Unavailable { reason } if reason.contains("cannot write")), "{error}");
    assert!(!place.health.is_ready());
}
