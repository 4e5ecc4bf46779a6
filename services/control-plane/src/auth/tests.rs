use super::*;
use protocol::User;

fn tokens() -> (Tokens, std::path::PathBuf) {
    let path = std::env::temp_dir().join(format!("tokens-{:016x}", rand::random::<u64>()));
    (Tokens::open(Folder::open(path.clone()).unwrap()).unwrap(), path)
}

fn user(name: &str) -> Grant {
    Grant::User { user: User { name: name.into(), groups: vec!["dev".into()] }, clusters: None }
}

fn bearer(token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
    headers
}

#[test]
fn a_token_works_until_it_is_revoked_and_its_secret_is_nowhere_on_disk() {
    let (tokens, path) = tokens();
    let (record, secret) = tokens.create(user("ana")).unwrap();
    let found = tokens.authenticate(&bearer(secret.expose())).unwrap();
    assert_eq!(found.grant, user("ana"));
    let stored = std::fs::read_to_string(path.join(format!("{}.json", record.id))).unwrap();
    let (_, secret_part) = record::split(secret.expose()).unwrap();
    assert!(!stored.contains(secret_part), "{stored}");

    assert!(tokens.revoke(&record.id).unwrap());
    tokens.refresh().unwrap();
    assert_eq!(tokens.authenticate(&bearer(secret.expose())).unwrap_err().code, 401);
    assert!(!tokens.revoke(&record.id).unwrap());
    std::fs::remove_dir_all(path).unwrap();
}

#[test]
fn anything_but_the_exact_token_is_refused() {
    let (tokens, path) = tokens();
    let (_, secret) = tokens.create(user("ana")).unwrap();
    let right = secret.expose();
    let mut other = right.to_owned();
    other.pop();
    for wrong in [&other, &format!("{right}0"), &right.replace("pipeops_", "pipeops-"), "", "x", "pipeops__"] {
        assert_eq!(tokens.authenticate(&bearer(wrong)).unwrap_err().code, 401, "{wrong}");
    }
    assert_eq!(tokens.authenticate(&HeaderMap::new()).unwrap_err().code, 401);
    let mut basic = HeaderMap::new();
    basic.insert(header::AUTHORIZATION, format!("Basic {right}").parse().unwrap());
    assert_eq!(tokens.authenticate(&basic).unwrap_err().code, 401);
    std::fs::remove_dir_all(path).unwrap();
}

#[test]
fn a_token_of_another_process_is_known_at_once() {
    let (server, path) = tokens();
    let command = Tokens::open(Folder::open(path.clone()).unwrap()).unwrap();
    for name in ["a", "b", "c"] {
        let (_, secret) = command.create(user(name)).unwrap();
        assert_eq!(server.authenticate(&bearer(secret.expose())).unwrap().grant, user(name));
    }
    std::fs::remove_dir_all(path).unwrap();
}
