use super::*;
use bytes::Bytes;
use duplex::Socket;
use exchange::{Pool, PoolLimits, Reply, Settings, UpgradeSlot};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use protocol::User;
use protocol::identity::{MAX_GROUPS, MAX_NAME, is_acceptable};
use runtime::files::write_atomically;
use std::convert::Infallible;
use std::fs;
use tempfile::TempDir;
use tokio::time::timeout;

/// Tokens as a process sees them that uses the folder at `place`.
async fn tokens(place: &TempDir) -> Arc<Tokens> {
    let tokens = Arc::new(Tokens::new(Folder::open(place.path().join("tokens")).unwrap()));
    tokens.refresh().await.unwrap();
    tokens
}

fn user(name: &str) -> Grant {
    Grant::User { user: User { name: name.into(), groups: vec!["dev".into()] }, clusters: None }
}

fn bearer(token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
    headers
}

async fn code(tokens: &Arc<Tokens>, token: &str) -> u16 {
    tokens.authenticate(&bearer(token)).await.map_or_else(|status| status.code, |_| 200)
}

/// The times at which looks begin show how many there were.
async fn last_look(tokens: &Tokens) -> Instant {
    tokens.turn.lock().await.unwrap()
}

#[tokio::test]
async fn a_token_works_until_it_is_revoked_and_its_secret_is_nowhere_on_disk() {
    let place = tempfile::tempdir().unwrap();
    let tokens = tokens(&place).await;
    let (record, secret) = tokens.create(user("ana")).unwrap();
    let found = tokens.authenticate(&bearer(secret.expose())).await.unwrap();
    assert_eq!(found.grant, user("ana"));
    let stored = fs::read_to_string(place.path().join(format!("tokens/{}.json", record.id))).unwrap();
    let (_, secret_part) = record::split(secret.expose()).unwrap();
    assert!(!stored.contains(secret_part), "{stored}");

    assert!(tokens.revoke(&record.id).unwrap());
    tokens.refresh().await.unwrap();
    assert_eq!(code(&tokens, secret.expose()).await, 401);
    assert!(!tokens.revoke(&record.id).unwrap());
}

#[tokio::test]
async fn anything_but_the_exact_token_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let tokens = tokens(&place).await;
    let (_, secret) = tokens.create(user("ana")).unwrap();
    let right = secret.expose();
    let mut other = right.to_owned();
    other.pop();
    let another = if right.ends_with('0') { '1' } else { '0' };
    for wrong in [
        &other,
        &format!("{other}{another}"),
        &format!("{right}0"),
        &right.replace("pipeops_", "pipeops-"),
        "",
        "x",
        "pipeops__",
    ] {
        assert_eq!(code(&tokens, wrong).await, 401, "{wrong}");
    }
    assert_eq!(tokens.authenticate(&HeaderMap::new()).await.unwrap_err().code, 401);
    let mut basic = HeaderMap::new();
    basic.insert(header::AUTHORIZATION, format!("Basic {right}").parse().unwrap());
    assert_eq!(tokens.authenticate(&basic).await.unwrap_err().code, 401);
    assert_eq!(code(&tokens, right).await, 200);
}

#[tokio::test]
async fn a_token_of_another_process_works_from_its_first_request_on() {
    let place = tempfile::tempdir().unwrap();
    let server = tokens(&place).await;
    let command = tokens(&place).await;
    for name in ["a", "b", "c"] {
        let (_, secret) = command.create(user(name)).unwrap();
        assert_eq!(server.authenticate(&bearer(secret.expose())).await.unwrap().grant, user(name));
        let (_, secret) = command.create(user(name)).unwrap();
        assert_eq!(server.authenticate(&bearer(secret.expose())).await.unwrap().grant, user(name));
    }
}

#[tokio::test]
async fn a_flood_of_unknown_tokens_shares_one_look() {
    let place = tempfile::tempdir().unwrap();
    let tokens = tokens(&place).await;
    let unknown = |n: u32| format!("pipeops_{n:012x}_{}", "0".repeat(64));
    // What cannot be a token costs nothing at all.
    let before = last_look(&tokens).await;
    for n in 0..100 {
        assert_eq!(code(&tokens, &unknown(n).replace('_', "-")).await, 401);
    }
    assert_eq!(last_look(&tokens).await, before, "garbage made somebody look");

    let begun = Instant::now();
    let flood = (0..1000).map(|n| {
        let tokens = Arc::clone(&tokens);
        async move { (code(&tokens, &unknown(n)).await, last_look(&tokens).await) }
    });
    let mut looks: Vec<Instant> = Vec::new();
    for (code, look) in futures::future::join_all(flood).await {
        assert_eq!(code, 401);
        looks.push(look);
    }
    looks.sort();
    looks.dedup();
    let most = begun.elapsed().div_duration_f64(LOOK_GAP).ceil();
    assert!(looks.len() as f64 <= most, "{} looks in {:?}", looks.len(), begun.elapsed());
    // A known token does not wait in that queue.
    let (_, secret) = tokens.create(user("ana")).unwrap();
    assert_eq!(code(&tokens, secret.expose()).await, 200);
    let before = last_look(&tokens).await;
    assert_eq!(code(&tokens, secret.expose()).await, 200);
    assert_eq!(last_look(&tokens).await, before);
}

#[tokio::test]
async fn a_caller_that_is_gone_stops_nobody_from_looking() {
    let place = tempfile::tempdir().unwrap();
    let server = tokens(&place).await;
    for _ in 0..3 {
        // Polled once: far enough to begin.
        drop(timeout(Duration::ZERO, server.refresh()).await);
    }
    let (_, secret) = tokens(&place).await.create(user("ana")).unwrap();
    assert_eq!(code(&server, secret.expose()).await, 200);
}

#[tokio::test]
async fn one_broken_file_keeps_no_other_token_from_coming_or_going() {
    let place = tempfile::tempdir().unwrap();
    let server = tokens(&place).await;
    let file = |record: &TokenRecord| place.path().join(format!("tokens/{}.json", record.id));
    let (ana, ana_secret) = server.create(user("ana")).unwrap();
    let (ben, ben_secret) = server.create(user("ben")).unwrap();
    server.refresh().await.unwrap();
    let good = fs::read_to_string(file(&ana)).unwrap();
    for broken in ["", "{", "[]", &good.replace(&ana.id, "another"), &good.replace("sha256\": \"", "sha256\": \"x")] {
        fs::write(file(&ana), broken).unwrap();
        let (_, new) = server.create(user("new")).unwrap();
        assert_eq!(code(&server, new.expose()).await, 200, "{broken}");
        // Known before, so it goes on; a process that begins now refuses it.
        assert_eq!(code(&server, ana_secret.expose()).await, 200, "{broken}");
        let fresh = tokens(&place).await;
        assert_eq!(code(&fresh, ana_secret.expose()).await, 401, "{broken}");
        assert_eq!(code(&fresh, ben_secret.expose()).await, 200, "{broken}");
    }
    server.revoke(&ben.id).unwrap();
    server.refresh().await.unwrap();
    assert_eq!(code(&server, ben_secret.expose()).await, 401);
    // Mended in place, which leaves the folder's time as it was.
    let fresh = tokens(&place).await;
    fs::write(file(&ana), &good).unwrap();
    assert_eq!(code(&fresh, ana_secret.expose()).await, 200);
    // A broken file can be revoked too.
    fs::write(file(&ana), "{").unwrap();
    assert!(server.revoke(&ana.id).unwrap());
    server.refresh().await.unwrap();
    assert_eq!(code(&server, ana_secret.expose()).await, 401);
}

#[tokio::test]
async fn whoever_waits_for_a_revocation_hears_of_it_and_of_no_other() {
    let place = tempfile::tempdir().unwrap();
    let server = tokens(&place).await;
    let (record, secret) = server.create(user("ana")).unwrap();
    let (_, other) = server.create(user("ben")).unwrap();
    let found = server.authenticate(&bearer(secret.expose())).await.unwrap();
    let others = server.authenticate(&bearer(other.expose())).await.unwrap();
    let waiting = tokio::spawn({
        let record = Arc::clone(&found);
        async move { record.revoked().cancelled().await }
    });
    // Looks that find nothing new, and one that finds a new token, change nothing for those there are.
    server.create(user("cid")).unwrap();
    server.refresh().await.unwrap();
    let again = server.authenticate(&bearer(secret.expose())).await.unwrap();
    assert!(Arc::ptr_eq(&again, &found) && !found.revoked().is_cancelled());

    // Another process revokes it.
    tokens(&place).await.revoke(&record.id).unwrap();
    server.refresh().await.unwrap();
    timeout(Duration::from_secs(1), waiting).await.unwrap().unwrap();
    assert!(found.revoked().is_cancelled() && !others.revoked().is_cancelled());
}

#[tokio::test]
async fn a_token_whose_rights_change_ends_what_was_begun_with_the_old_ones() {
    let place = tempfile::tempdir().unwrap();
    let server = tokens(&place).await;
    let (record, secret) = server.create(user("ana")).unwrap();
    let before = server.authenticate(&bearer(secret.expose())).await.unwrap();
    let file = place.path().join(format!("tokens/{}.json", record.id));
    let text = fs::read_to_string(&file).unwrap();
    // Damage alone ends nothing.
    write_atomically(&file, b"{").unwrap();
    server.refresh().await.unwrap();
    assert!(!before.revoked().is_cancelled());
    write_atomically(&file, text.replace("\"dev\"", "\"ops\"").as_bytes()).unwrap();
    server.refresh().await.unwrap();
    assert!(before.revoked().is_cancelled());
    let after = server.authenticate(&bearer(secret.expose())).await.unwrap();
    assert!(!after.revoked().is_cancelled());
    assert_eq!(after.identity().get("x-pipeops-group").unwrap(), "ops");
}

/// Between our own hops, beside what a client with many headers of its own sends.
#[tokio::test]
async fn the_user_with_the_most_and_longest_groups_fits_a_request() {
    // Each of its three bytes becomes three.
    let longest = "\u{4e16}".repeat(MAX_NAME / 3);
    assert!(is_acceptable(&longest));
    let user = User { name: longest.clone(), groups: vec![longest; MAX_GROUPS] };
    let token = NewToken::generate(Grant::User { user: user.clone(), clusters: None }).record;
    let mut request = Request::get("/api").header("host", "kubernetes").body(Empty::<Bytes>::new()).unwrap();
    for i in 0..100 {
        request
            .headers_mut()
            .insert(header::HeaderName::try_from(format!("x-{i}")).unwrap(), "x".repeat(400).parse().unwrap());
    }
    request.headers_mut().extend(token.identity().clone());

    let (near, far) = tokio::io::duplex(64 * 1024);
    let serving = exchange::serve(
        Settings::default(),
        Socket::new(far),
        UpgradeSlot::<()>::new(),
        std::future::pending(),
        |request: Request<exchange::Incoming>| {
            assert_eq!(User::read_headers(request.headers()).unwrap(), user);
            let none = Empty::<Bytes>::new().map_err(|never: Infallible| match never {});
            std::future::ready(Response::new(none))
        },
    );
    let pool = Pool::new(PoolLimits { max_idle: 0, idle_timeout: Duration::ZERO });
    let near = std::sync::Mutex::new(Some(Socket::new(near)));
    let connect = async || Ok::<_, Infallible>((near.lock().unwrap().take().unwrap(), Arc::clone(&pool)));
    let asking = async {
        match pool.send(request, connect).await.unwrap() {
            Reply::Response(response) => response.status(),
            Reply::Upgraded(..) => panic!("nobody asked for a session"),
        }
    };
    let status = tokio::select! {
        status = asking => status,
        ended = serving => panic!("refused: {:?}", ended.err()),
    };
    assert_eq!(status, 200);
}
