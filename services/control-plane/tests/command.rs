//! `control-plane token ...` as an operator uses it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends at the first surprise")]

use std::path::Path;
use std::process::Command;

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

fn command(data: &Path, args: &[&str]) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_control-plane"));
    let output = command.args(args).env_clear().env("PIPEOPS_DATA_DIR", data).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

fn ok(data: &Path, args: &[&str]) -> String {
    let said = command(data, args);
    assert_eq!(said.code, Some(0), "{args:?}: {}", said.err);
    said.out
}

fn refused(data: &Path, args: &[&str]) -> String {
    let said = command(data, args);
    assert!(matches!(said.code, Some(1 | 2)), "{args:?} ends with {:?}", said.code);
    assert_eq!(said.out, "", "{args:?} fails, and prints");
    said.err
}

/// The id in the first column of the line that says this.
fn id_of(list: &str, what: &str) -> String {
    let line = list.lines().find(|line| line.contains(what)).unwrap_or_else(|| panic!("no {what:?} in\n{list}"));
    line.split_whitespace().next().unwrap().to_owned()
}

#[test]
fn tokens_are_made_listed_and_revoked() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path();
    let create = |args: &[&str]| ok(data, &[&["token", "create"], args].concat());
    let token = create(&["--user", "ana", "--group", "dev", "--group", "two words"]);
    assert!(token.starts_with("pipeops_") && token.ends_with('\n') && token.lines().count() == 1, "{token}");
    create(&["--user", "ben", "--cluster", "a", "--cluster", "b"]);
    create(&["--user", "cid", "--cluster", "a"]);
    create(&["--agent", "--cluster", "prod"]);

    let list = ok(data, &["token", "list"]);
    let lines: Vec<&str> = list.lines().collect();
    assert_eq!(lines.len(), 5, "{list}");
    let column = lines[0].find("FOR").unwrap();
    let what: Vec<&str> = lines[1..].iter().map(|line| &line[column..]).collect();
    for wanted in [
        r#"user ana in dev, "two words""#,
        "user ben, only clusters a, b",
        "user cid, only cluster a",
        "agent of cluster prod",
    ] {
        assert!(what.contains(&wanted), "{wanted:?} is not in\n{list}");
    }
    assert!(!list.contains(token.trim()), "the list shows tokens");

    let ben = id_of(&list, "user ben");
    assert_eq!(ok(data, &["token", "revoke", &ben]), format!("revoked {ben}, user ben, only clusters a, b\n"));
    // Whoever finds a token somewhere has no id.
    ok(data, &["token", "revoke", token.trim()]);
    let list = ok(data, &["token", "list"]);
    assert!(!list.contains("user ana") && !list.contains("user ben"), "{list}");
    for gone in [ben.as_str(), token.trim(), "nonsense", "../x"] {
        let said = refused(data, &["token", "revoke", gone]);
        assert!(said.contains("there is no token with the id") && said.contains("token list"), "{said}");
        assert!(!said.contains(token.trim()), "the secret is shown: {said}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_the_reason() {
    let place = tempfile::tempdir().unwrap();
    let long = "x".repeat(64);
    let cases: [(&[&str], &str); 14] = [
        (&[], "--agent|--user"),
        (&["--agent"], "--cluster <NAME>"),
        (&["--agent", "--cluster", "a", "--cluster", "b"], "give --cluster once"),
        (&["--agent", "--cluster", "a", "--user", "x"], "cannot be used with"),
        (&["--agent", "--cluster", "a", "--group", "x"], "cannot be used with"),
        (&["--agent", "--cluster", "a/b"], r#""a/b" cannot be the name of a cluster"#),
        (&["--agent", "--cluster", "ws"], "cannot be the name of a cluster"),
        (&["--agent", "--cluster", &long], "cannot be the name of a cluster"),
        (&["--user", "x", "--cluster", "prod "], r#""prod " cannot be the name of a cluster"#),
        (&["--user", ""], r#""" cannot be the name of a user"#),
        (&["--user", " x"], r#"" x" cannot be the name of a user"#),
        (&["--user", "x", "--group", ""], r#""" cannot be the name of a group"#),
        (&["--user", "x", "--set", "data_dri=/x"], r#"did you mean "data_dir"?"#),
        (&["--user", "x", "--print-config"], "--print-config"),
    ];
    for (args, wanted) in cases {
        let said = refused(place.path(), &[&["token", "create"], args].concat());
        assert!(said.contains(wanted), "{args:?}: {said}");
    }
    let many: Vec<_> = (0..65).flat_map(|i| ["--group".to_owned(), format!("g{i}")]).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let said = refused(place.path(), &[&["token", "create", "--user", "x"], &many[..]].concat());
    assert!(said.contains("at most 64 groups") && said.contains("65"), "{said}");
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0, "something was stored");
}

#[test]
fn a_folder_that_is_not_the_control_planes_is_named() {
    let place = tempfile::tempdir().unwrap();
    let typo = place.path().join("typo");
    for args in [&["token", "list"][..], &["token", "revoke", "4ce522689747"]] {
        let said = refused(&typo, args);
        assert!(said.contains("typo") && said.contains("PIPEOPS_DATA_DIR"), "{said}");
    }
    assert!(!typo.exists(), "looking made it");
    // The first token may well be made before the control plane is started.
    let said = command(&typo, &["token", "create", "--user", "ana"]);
    assert!(said.code == Some(0) && said.err.contains("note: ") && said.err.contains("typo"), "{}", said.err);
    let said = command(&typo, &["token", "create", "--user", "ana"]);
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
    std::fs::write(place.path().join("file"), "").unwrap();
    let said = refused(&place.path().join("file"), &["token", "create", "--user", "ana"]);
    assert!(said.contains("cannot use folder") && said.contains("Not a directory"), "{said}");
}

#[test]
fn a_damaged_token_is_named_and_can_be_revoked() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path();
    for user in ["ana", "ben"] {
        ok(data, &["token", "create", "--user", user]);
    }
    let ana = id_of(&ok(data, &["token", "list"]), "user ana");
    std::fs::write(data.join(format!("tokens/{ana}.json")), "{").unwrap();
    let said = command(data, &["token", "list"]);
    assert_eq!(said.code, Some(0));
    assert!(said.out.contains("user ben") && !said.out.contains(&ana), "{}", said.out);
    assert!(said.err.contains("warning: ") && said.err.contains(&ana) && said.err.contains("damaged"), "{}", said.err);
    assert_eq!(ok(data, &["token", "revoke", &ana]), format!("revoked {ana}\n"));
    assert_eq!(command(data, &["token", "list"]).err, "");
    let ben = id_of(&ok(data, &["token", "list"]), "user ben");
    ok(data, &["token", "revoke", &ben]);
    let said = command(data, &["token", "list"]);
    assert!(said.code == Some(0) && said.out.is_empty() && said.err.contains("there are no tokens"), "{}", said.err);
}

#[test]
fn help_says_where_to_run_it() {
    let place = tempfile::tempdir().unwrap();
    let help = ok(place.path(), &["token", "--help"]);
    assert!(help.contains("PIPEOPS_DATA_DIR") && help.contains("pod"), "{help}");
    for (command, wanted) in [("create", "from its first request on"), ("revoke", "Within two seconds")] {
        let help = ok(place.path(), &["token", command, "--help"]);
        assert!(help.contains(wanted) && !help.contains("--print-schema"), "{help}");
    }
}
