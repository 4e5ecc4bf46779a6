use super::*;

#[test]
fn the_charts_permissions_are_those_of_the_table() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(PERMISSIONS_FILE);
    let committed = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("cannot read {PERMISSIONS_FILE}: {error}; run `cargo lab generate`"));
    assert_eq!(committed, permissions_yaml(), "{PERMISSIONS_FILE} is out of date; run `cargo lab generate`");
}

#[test]
fn each_subject_has_one_row_and_no_service_publishes_to_itself() {
    for (index, row) in TABLE.iter().enumerate() {
        assert!(!TABLE[..index].iter().any(|other| other.subject == row.subject), "{} is there twice", row.subject);
        assert!(!row.publishers.contains(&row.subscriber), "{}", row.subject);
        assert!(!row.publishers.is_empty(), "nobody may publish to {}", row.subject);
    }
}

#[test]
fn stream_frames_go_only_between_the_two_sides() {
    let link = permissions(Service::GatewayLink);
    let executor = permissions(Service::ProxyExecutor);
    assert!(link.publish.contains(&"pipeops.stream.io.proxy-executor.>".to_owned()));
    assert!(executor.publish.contains(&"pipeops.stream.io.gateway-link.>".to_owned()));
    assert!(link.subscribe.contains(&"pipeops.stream.io.gateway-link.>".to_owned()));
    assert!(!executor.publish.iter().any(|subject| matches(subject, "pipeops.stream.io.state-keeper.x.d")));
    assert!(!executor.publish.iter().any(|subject| matches(subject, GetIdentity::SUBJECT)));
    assert!(!permissions(Service::RouteSyncer).allow_responses && permissions(Service::StateKeeper).allow_responses);
}

#[test]
fn wildcards_match_as_the_server_does() {
    assert!(matches("a.>", "a.b") && matches("a.>", "a.b.c") && matches("a.*.c", "a.b.c") && matches("a", "a"));
    assert!(!matches("a.>", "a") && !matches("a.*", "a.b.c") && !matches("a.b", "a") && !matches("a", "a.b"));
}
