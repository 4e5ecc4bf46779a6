use std::{io::Write as _, net::TcpListener};

use crate::driver::{Driven, finished, text};

fn file(content: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    file.write_all(content.as_bytes()).unwrap();
    file
}

#[test]
fn a_bad_configuration_ends_with_code_2_and_one_line_that_says_where() {
    let unknown = file("peer:\n  tokn: abc\n");
    let path = unknown.path().to_str().unwrap();
    for (args, environment, wanted) in [
        (vec!["--config", path], vec![], vec!["unknown key \"peer.tokn\"", path, "did you mean \"peer.token\"?"]),
        (vec![], vec![("PIPEOPS_CONFIG", path)], vec!["unknown key \"peer.tokn\"", path]),
        (vec!["--config", "/nowhere.yaml"], vec![], vec!["/nowhere.yaml", "No such file"]),
        (vec![], vec![("PIPEOPS_SERVER_LISTEN", "here")], vec!["\"server.listen\"", "PIPEOPS_SERVER_LISTEN"]),
        (vec!["--log-level", "loud"], vec![], vec!["\"logging.level\"", "\"loud\" is not a log level"]),
        (vec!["--set", "buffer=4"], vec![], vec!["\"buffer\"", "no unit", "64KiB"]),
        (vec!["--set", "peer.mode=fast"], vec![], vec!["`fast`", "`direct`"]),
    ] {
        let output = finished(&args, &environment);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?} {environment:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.starts_with("driven: "), "{said}");
        for part in wanted {
            assert!(said.contains(part), "{part:?} is not in {said}");
        }
    }
}

#[test]
fn unknown_flags_end_with_code_2_and_help_with_0() {
    let output = finished(&["--bogus"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--bogus"));

    let output = finished(&["--help"], &[]);
    assert_eq!(output.status.code(), Some(0));
    for part in ["--print-config", "peer.token", "What it knows us by.", "PIPEOPS_TOKEN", "[default: 4MiB]"] {
        assert!(text(&output.stdout).contains(part), "{part:?} is not in {}", text(&output.stdout));
    }

    let output = finished(&["--version"], &[]);
    assert_eq!(text(&output.stdout), concat!("driven ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn print_config_shows_what_would_be_used_with_secrets_masked() {
    let config = file("peer: {url: from-file, timeout: 1s, names: [a]}\nbuffer: 1MiB\n");
    let environment = [("PIPEOPS_TOKEN", "s3cret"), ("PIPEOPS_PEER_URL", "from-env"), ("PIPEOPS_BUFFER", "2MiB")];
    let args = ["--config", config.path().to_str().unwrap(), "--set", "buffer=3MiB", "--print-config"];
    let output = finished(&args, &environment);
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    for part in ["url: from-env", "timeout: 1s", "buffer: 3MiB", "token: \"***\"", "shutdown_timeout: 15s"] {
        assert!(shown.contains(part), "{part:?} is not in\n{shown}");
    }
    assert!(!shown.contains("s3cret"));
}

#[test]
fn print_schema_is_a_json_schema_of_every_key() {
    let output = finished(&["--print-schema"], &[("PIPEOPS_SERVER_LISTEN", "not even a valid configuration")]);
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(schema["properties"]["buffer"]["description"], "How much is kept in memory.");
    assert_eq!(schema["$defs"]["Peer"]["properties"]["token"]["writeOnly"], true);
}

#[test]
fn logs_are_json_unless_asked_otherwise_and_follow_the_level() {
    let mut driven = Driven::start(&["--log-level", "warn,runtime::process=info"], &[]);
    driven.tell("ready");
    driven.tell("not-ready the sea");
    driven.tell("finish");
    assert!(driven.wait_exit().success());
    let log = driven.log();
    assert!(log.iter().any(|line| line["level"] == "WARN" && line["reason"] == "the sea"), "{log:?}");
    assert!(!log.iter().any(|line| line["message"] == "ready"), "that is information: {log:?}");

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("server.listen={}", taken.local_addr().unwrap());
    let output = finished(&["--set", &listen], &[("PIPEOPS_LOG_FORMAT", "text")]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("ERROR") && said.contains("cannot listen on 127.0.0.1:"), "{said}");
    assert!(!said.contains('\u{1b}'), "no colours outside a terminal: {said:?}");
}
