use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ConfigMap;

use super::*;
use crate::record::{new_map, new_secret};

/// Tells this test binary to write to that file for as long as it lives.
const WRITES_TO: &str = "STATE_FILE_TEST_WRITES_TO";

fn open(path: &Path) -> Result<StateFile, OpenError> {
    StateFile::open(path.to_path_buf(), Key::new([1; 32]).unwrap())
}

fn map(content: &str) -> ConfigMap {
    ConfigMap { data: Some([("x".to_owned(), content.to_owned())].into()), ..new_map("m") }
}

#[tokio::test]
async fn a_write_names_the_version_that_it_was_made_from() {
    let folder = tempfile::tempdir().unwrap();
    let file = open(&folder.path().join("state")).unwrap();
    assert_eq!(file.get::<ConfigMap>("m").await.unwrap(), None);
    let first = file.save(&map("1")).await.unwrap();
    assert!(matches!(file.save(&map("2")).await, Err(StorageError::Conflict)), "it is there already");
    let second = file.save(&ConfigMap { data: map("2").data, ..first.clone() }).await.unwrap();
    assert!(matches!(file.save(&first).await, Err(StorageError::Conflict)), "there is a newer one");
    assert_eq!(file.get::<ConfigMap>("whatever it is called").await.unwrap(), Some(second));
    file.save(&new_secret("s")).await.unwrap();
    assert_eq!(file.get::<ConfigMap>("m").await.unwrap().unwrap().data, map("2").data);
}

#[tokio::test]
async fn only_its_owner_can_read_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    open(&path).unwrap().save(&map("1")).await.unwrap();
    for path in [lock_path(&path), path] {
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{path:?}");
    }
}

#[test]
fn a_second_process_is_told_and_a_later_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let first = open(&path).unwrap();
    let error = open(&path).unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }) && error.to_string().contains("another process"), "{error}");
    drop(first);
    open(&path).unwrap();
    let error = open(&folder.path().join("nowhere/state")).unwrap_err();
    assert!(matches!(error, OpenError::Lock { .. }) && error.to_string().contains("folder"), "{error}");
}

#[tokio::test]
async fn what_is_too_large_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let file = open(&path).unwrap();
    File::create(&path).unwrap().set_len(LARGEST + 1).unwrap();
    assert!(matches!(file.get::<ConfigMap>("m").await, Err(StorageError::Corrupt(_))));
}

#[tokio::test]
async fn content_of_another_make_is_corrupt() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let file = open(&path).unwrap();
    for content in [br#"[]"#.as_slice(), br#"{"version":1,"objects":{"ConfigMap":7}}"#, b"\xff"] {
        fs::write(&path, sealed::seal(&file.0.key, content).unwrap()).unwrap();
        let error = file.get::<ConfigMap>("m").await.unwrap_err();
        assert!(matches!(&error, StorageError::Corrupt(reason) if reason.contains("this release")), "{error}");
    }
}

/// Not a test: what a child process runs. Without its environment there is nothing to do.
#[tokio::test]
async fn writer() {
    let Some(path) = std::env::var_os(WRITES_TO) else { return };
    let file = open(Path::new(&path)).unwrap();
    let mut stored = file.get::<ConfigMap>("m").await.unwrap().unwrap();
    for letter in ('a'..='z').cycle() {
        stored.data = map(&letter.to_string().repeat(100_000)).data;
        stored = file.save(&stored).await.unwrap();
    }
}

#[tokio::test]
async fn a_writer_that_is_killed_leaves_the_old_content_or_the_new() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    open(&path).unwrap().save(&map(&"-".repeat(100_000))).await.unwrap();
    let mut before = fs::read(&path).unwrap();
    for round in 0..12_u32 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "file::tests::writer", "--nocapture"])
            .env(WRITES_TO, &path)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // It is known to write once the content is another; then at any moment.
        let limit = Instant::now() + Duration::from_secs(20);
        while fs::read(&path).unwrap() == before {
            assert!(Instant::now() < limit && child.try_wait().unwrap().is_none(), "nothing is written");
            std::thread::yield_now();
        }
        for _ in 0..round * 7 {
            drop(fs::read(&path));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let file = open(&path).unwrap();
        let data = file.get::<ConfigMap>("m").await.unwrap().unwrap().data.unwrap();
        let text = data["x"].as_bytes();
        assert!(text.len() == 100_000 && text.iter().all(|byte| *byte == text[0]), "round {round}");
        before = fs::read(&path).unwrap();
    }
}
