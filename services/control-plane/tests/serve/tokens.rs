use std::time::Duration;

use tokio::time::timeout;

use crate::control_plane::{ControlPlane, SOON, ca, get, token};

#[tokio::test]
async fn a_token_works_from_its_first_request_on_beside_a_damaged_one() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path();
    let mut server = ControlPlane::start(data, &[]).await;
    let ca = ca(data);
    let mut connection = server.connect(&ca).await.unwrap();
    std::fs::write(data.join("tokens/0123456789ab.json"), "{").unwrap();
    for name in ["ana", "ben", "cid"] {
        let token = token(data, &["create", "--user", name]).await;
        assert_eq!(get(&mut connection, "/api/v1/clusters", &token).await, (200, r#"{"clusters":[]}"#.to_owned()));
    }
    let said = server.says("does not count").await;
    assert!(said["error"].as_str().unwrap().contains("0123456789ab.json"), "{said}");
    // Once, and not at every look.
    let token = token(data, &["create", "--user", "dan"]).await;
    assert_eq!(get(&mut connection, "/api/v1/clusters", &token).await.0, 200);
    drop(connection);
    let told = timeout(Duration::from_secs(3), server.says("does not count")).await;
    assert!(told.is_err(), "told again: {told:?}");
}

#[tokio::test]
async fn a_revoked_token_is_soon_refused() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path();
    let server = ControlPlane::start(data, &[]).await;
    let ca = ca(data);
    let mut connection = server.connect(&ca).await.unwrap();
    let secret = token(data, &["create", "--user", "ana"]).await;
    assert_eq!(get(&mut connection, "/api/v1/clusters", &secret).await.0, 200);
    token(data, &["revoke", &secret]).await;
    let refused = timeout(SOON, async {
        while get(&mut connection, "/api/v1/clusters", &secret).await.0 != 401 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    refused.await.expect("still valid");
}
