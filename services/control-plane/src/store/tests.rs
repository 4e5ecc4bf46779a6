use super::*;

#[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
struct Note {
    name: String,
    text: String,
}

impl Record for Note {
    fn name(&self) -> &str {
        &self.name
    }
}

fn note(name: &str, text: &str) -> Note {
    Note { name: name.into(), text: text.into() }
}

/// A folder of the test's own, removed with the guard.
fn folder() -> (Folder<Note>, tempfile::TempDir) {
    let place = tempfile::tempdir().unwrap();
    (Folder::open(place.path().join("notes")).unwrap(), place)
}

#[test]
fn records_are_read_back_replaced_and_removed() {
    let (notes, _place) = folder();
    notes.put(&note("a", "one")).unwrap();
    notes.put(&note("a", "two")).unwrap();
    assert_eq!(notes.get("a").unwrap(), Some(note("a", "two")));
    assert_eq!(notes.all().unwrap().records, [note("a", "two")]);
    assert!(notes.remove("a").unwrap());
    assert!(!notes.remove("a").unwrap());
    assert_eq!(notes.get("a").unwrap(), None);
}

#[test]
fn a_name_leads_nowhere_else() {
    let (notes, _place) = folder();
    for name in ["", ".", "..", ".hidden", "a/b", "../a", "a b", "a\0"] {
        assert!(matches!(notes.put(&note(name, "")), Err(StoreError::Name(_))), "{name:?}");
        assert!(matches!(notes.get(name), Err(StoreError::Name(_))), "{name:?}");
        assert!(matches!(notes.remove(name), Err(StoreError::Name(_))), "{name:?}");
    }
}

#[test]
fn broken_files_stand_in_nobodys_way_and_stay() {
    let (notes, place) = folder();
    let file = |name: &str| place.path().join("notes").join(name);
    notes.put(&note("good", "fine")).unwrap();
    fs::write(file("bad.json"), "{\"name\": \"ba").unwrap();
    // What an operator leaves behind who makes a copy first.
    fs::copy(file("good.json"), file("good-copy.json")).unwrap();
    // A folder of that name cannot be read as a file.
    fs::create_dir(file("odd.json")).unwrap();
    fs::write(file("good.json.bak"), "not looked at").unwrap();

    let Contents { records, broken } = notes.all().unwrap();
    assert_eq!(records, [note("good", "fine")]);
    let said: std::collections::BTreeMap<_, _> =
        broken.iter().map(|(name, e)| (name.as_str(), error_text(e))).collect();
    assert_eq!(said.keys().copied().collect::<Vec<_>>(), ["bad", "good-copy", "odd"]);
    assert!(said["bad"].contains("bad.json") && said["bad"].contains("restored from a backup"), "{}", said["bad"]);
    assert!(said["bad"].contains("EOF"), "the reason is missing: {}", said["bad"]);
    assert!(said["good-copy"].contains("copy of the record \"good\""), "{}", said["good-copy"]);
    assert!(file("bad.json").exists(), "the broken file is gone");
    assert!(matches!(notes.get("bad"), Err(StoreError::Corrupt { .. })));
}

#[test]
fn each_broken_file_is_complained_of_once_until_it_changes() {
    let (notes, place) = folder();
    let bad = place.path().join("notes/bad.json");
    let mut complaints = Complaints::default();
    let mut look = || {
        complaints.tell(&notes.all().unwrap().broken, "of no consequence");
        complaints.0.clone()
    };
    fs::write(&bad, "{").unwrap();
    let first = look();
    assert_eq!(first.keys().collect::<Vec<_>>(), ["bad"]);
    assert_eq!(look(), first);
    fs::write(&bad, "[]").unwrap();
    assert_ne!(look(), first);
    notes.put(&note("bad", "mended")).unwrap();
    assert!(look().is_empty());
}

#[test]
fn what_is_written_is_the_owners_alone_and_nothing_is_left_beside_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let (notes, place) = folder();
    notes.put(&note("a", "x")).unwrap();
    let folder = place.path().join("notes");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&folder), mode(&folder.join("a.json"))), (0o700, 0o600));
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    // A write that fails leaves nothing either.
    fs::create_dir(folder.join("b.json")).unwrap();
    let error = notes.put(&note("b", "x")).unwrap_err();
    assert!(matches!(error, StoreError::Write { .. }), "{error}");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
}
