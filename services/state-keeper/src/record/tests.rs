use bus::state::LinkToken;
use k8s_openapi::ByteString;
use proptest::prelude::*;
use protocol::Secret;

use super::*;

fn map(pairs: &[(&str, &str)]) -> ConfigMap {
    let data = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    ConfigMap { data: Some(data), ..new_map("state") }
}

fn identity(agent: &str, cluster: Option<&str>, url: Option<&str>) -> Record {
    Record {
        agent_id: Some(agent.parse().unwrap()),
        cluster_id: cluster.map(|id| id.parse().unwrap()),
        gateway_ws_url: url.map(str::to_owned),
        config: Config::None,
    }
}

#[test]
fn the_existing_agents_config_map_is_read() {
    let stored = map(&[("agent_id", "agent-a24174672b98d81c"), ("cluster_id", "c-1"), ("gateway_ws_url", "ws://g:1")]);
    assert_eq!(Record::read(&stored, false), Ok(identity("agent-a24174672b98d81c", Some("c-1"), Some("ws://g:1"))));
    let fresh = map(&[("agent_id", "a"), ("cluster_id", ""), ("gateway_ws_url", "")]);
    assert_eq!(Record::read(&fresh, false), Ok(identity("a", None, None)));
    assert_eq!(Record::read(&new_map("state"), false), Ok(Record::default()));
}

#[test]
fn what_is_not_an_identity_is_corrupt() {
    let read = |pairs: &[(&str, &str)]| Record::read(&map(pairs), false).map_err(|e| e.to_string());
    assert_eq!(
        read(&[("agent_id", "a b")]),
        Err("its agent_id contains ' ', which is not allowed in an identifier".into())
    );
    assert_eq!(
        read(&[("agent_id", "a"), ("cluster_id", "c\n")]),
        Err("its cluster_id contains '\\n', which is not allowed in an identifier".into())
    );
    assert!(read(&[("cluster_id", "c")]).unwrap_err().contains("no agent_id"));
    assert!(Record::read(&map(&[("cluster_id", "c")]), true).is_ok(), "the configured agent id stands in for it");
}

#[test]
fn writing_changes_our_keys_only_and_says_whether_it_did() {
    let mut stored = map(&[("agent_id", "a"), ("gateway_ws_url", "ws://old"), ("theirs", "x")]);
    assert!(identity("a", Some("c"), None).write(&mut stored).unwrap());
    assert_eq!(stored, map(&[("agent_id", "a"), ("cluster_id", "c"), ("theirs", "x")]));
    assert!(!identity("a", Some("c"), None).write(&mut stored).unwrap());
    let mut empty = map(&[("agent_id", "a"), ("cluster_id", "")]);
    assert!(!identity("a", None, None).write(&mut empty).unwrap(), "an empty value is the same as none");
}

#[test]
fn a_new_object_has_the_labels_of_the_existing_agent() {
    let object = serde_json::to_value(new_secret("s")).unwrap();
    assert_eq!(object["type"], "Opaque");
    assert_eq!(object["metadata"]["labels"]["app.kubernetes.io/component"], "secrets");
    assert_eq!(object["metadata"]["labels"]["app.kubernetes.io/managed-by"], "pipeops-agent");
}

#[test]
fn the_token_is_one_key_of_the_secret() {
    let mut secret = new_secret("s");
    assert_eq!(read_token(&secret), Ok(None));
    secret.data = Some([("cluster_cert_data".to_owned(), ByteString(b"cert".to_vec()))].into());
    write_token(&mut secret, Some(&Secret::new("t")));
    assert_eq!(read_token(&secret), Ok(Some(Secret::new("t"))));
    assert_eq!(secret.data.as_ref().unwrap().len(), 2);
    write_token(&mut secret, None);
    assert_eq!(read_token(&secret), Ok(None));
    assert_eq!(secret.data.unwrap().into_keys().collect::<Vec<_>>(), ["cluster_cert_data"]);
    let broken = Some([("cluster_token".to_owned(), ByteString(vec![0xff]))].into());
    assert_eq!(
        read_token(&SecretObject { data: broken, ..new_secret("s") }),
        Err(Corrupt::NotText { key: "cluster_token" })
    );
}

#[test]
fn the_link_token_is_two_keys_of_the_secret() {
    let link = LinkToken { token: Secret::new("l"), expires_at: "2026-11-27T12:00:00.5Z".parse().unwrap() };
    let mut secret = new_secret("s");
    write_token(&mut secret, Some(&Secret::new("t")));
    assert_eq!(read_link_token(&secret), Ok(None), "the cluster's token is none to connect with");
    write_link_token(&mut secret, Some(&link));
    assert_eq!(read_link_token(&secret), Ok(Some(link)));
    assert_eq!(secret.data.as_ref().unwrap()["link_token_expires_at"].0, b"2026-11-27T12:00:00.5Z");
    secret.data.as_mut().unwrap().insert("link_token_expires_at".to_owned(), ByteString(b"soon".to_vec()));
    assert!(read_link_token(&secret).unwrap_err().to_string().contains("link_token_expires_at"));
    secret.data.as_mut().unwrap().remove("link_token_expires_at");
    assert_eq!(read_link_token(&secret), Err(Corrupt::NoExpiry));
    write_link_token(&mut secret, None);
    assert_eq!(secret.data.unwrap().into_keys().collect::<Vec<_>>(), ["cluster_token"]);
}

proptest! {
    #[test]
    fn any_config_map_is_read_or_refused_and_an_identity_survives(
        data in prop::collection::btree_map("agent_id|cluster_id|gateway_ws_url|cluster_config|[a-z]{1,4}", r#"(?s).{0,12}|[a-z0-9-]{1,20}|\{"revision":[0-9]{1,3}\}"#, 0..5),
        known: bool,
    ) {
        let mut stored = ConfigMap { data: Some(data), ..new_map("state") };
        if let Ok(record) = Record::read(&stored, known) {
            let before = stored.clone();
            prop_assert!(!record.write(&mut stored).unwrap());
            prop_assert_eq!(&stored, &before);
            let mut new = new_map("state");
            record.write(&mut new).unwrap();
            let readable = if matches!(record.config, Config::Broken(_)) { Config::None } else { record.config.clone() };
            prop_assert_eq!(Record::read(&new, known), Ok(Record { config: readable, ..record }));
        }
    }
}
