//! state-keeper against a real API server, with exactly the rights that the chart gives it: one identity, kept through restarts, lost
//! and broken objects, several replicas, a refused token and an API server that goes away.

#[path = "state_keeper/place.rs"]
mod place;

use anyhow::{Context, Result, ensure};
use bus::{
    RequestError,
    state::{GetIdentity, SaveRegistration, StateError},
};
use lab::{Lab, Options, until};
use place::{Keeper, MAP, Place, SECRET};
use protocol::Secret;
use serde_json::json;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(15);

async fn lab() -> Result<Lab> {
    Lab::start(Options { services: false, ..Options::default() }).await
}

fn registration(cluster: &str, token: Option<&str>) -> Result<SaveRegistration> {
    Ok(SaveRegistration {
        cluster_id: cluster.parse()?,
        gateway_ws_url: Some(format!("wss://{cluster}.example.com/ws")),
        cluster_token: token.map(Secret::new),
    })
}

#[tokio::test]
async fn the_identity_is_kept_where_the_existing_agent_keeps_it() -> Result<()> {
    let lab = lab().await?;
    let place = Place::prepare(&lab, "kept").await?;

    let keeper = Keeper::start(&place, &lab);
    keeper.wait_ready(SOON).await?;
    ensure!(place.object(&lab, MAP).await?.is_none(), "looking at the state must not create it");
    let first = keeper.ask(&GetIdentity {}).await?;
    ensure!(first.cluster_id.is_none(), "{first:?}");
    let saved = keeper.ask(&registration("c-1", Some("t-1"))?).await?;
    ensure!(saved.agent_id == first.agent_id, "{saved:?} is not {first:?}");
    keeper.stop().await?;

    let map = place.object(&lab, MAP).await?.context("there is no ConfigMap")?;
    let expected =
        json!({"agent_id": first.agent_id, "cluster_id": "c-1", "gateway_ws_url": "wss://c-1.example.com/ws"});
    ensure!(map["data"] == expected, "{map}");
    ensure!(map["metadata"]["labels"]["app.kubernetes.io/component"] == "state", "{map}");
    let secret = place.object(&lab, SECRET).await?.context("there is no Secret")?;
    ensure!(secret["data"] == json!({"cluster_token": "dC0x"}) && secret["type"] == "Opaque", "{secret}");

    let keeper = Keeper::start(&place, &lab);
    let again = keeper.ask(&GetIdentity {}).await?;
    ensure!(again == saved, "after a restart {again:?}, before {saved:?}");
    keeper.stop().await?;
    lab.stop().await
}

#[tokio::test]
async fn replicas_that_start_at_once_make_one_agent_id() -> Result<()> {
    let lab = lab().await?;
    let place = Place::prepare(&lab, "replicas").await?;
    let keepers = [(); 4].map(|()| Keeper::start(&place, &lab));
    // Each on a bus of its own: so every one of them is asked.
    let [a, b, c, d] = &keepers;
    let get = GetIdentity {};
    let (a, b, c, d) = tokio::try_join!(a.ask(&get), b.ask(&get), c.ask(&get), d.ask(&get))?;
    ensure!(a == b && b == c && c == d, "several identities were made: {a:?} {b:?} {c:?} {d:?}");
    for keeper in keepers {
        keeper.stop().await?;
    }
    lab.stop().await
}

#[tokio::test]
async fn a_lost_object_is_restored_and_a_broken_one_left_alone() -> Result<()> {
    let lab = lab().await?;
    let place = Place::prepare(&lab, "broken").await?;
    let keeper = Keeper::start(&place, &lab);
    let saved = keeper.ask(&registration("c-1", Some("t-1"))?).await?;

    place.admin(&lab, &["delete", "configmap", "pipeops-agent-state"]).await?;
    let restored = keeper.ask(&GetIdentity {}).await?;
    ensure!(restored == saved, "restored {restored:?}, saved {saved:?}");

    let broken = r#"{"data":{"agent_id":"not an id"}}"#;
    place.admin(&lab, &["patch", "configmap", "pipeops-agent-state", "--type=merge", "-p", broken]).await?;
    let before = place.object(&lab, MAP).await?;
    for outcome in [keeper.ask(&GetIdentity {}).await, keeper.ask(&registration("c-2", Some("t-2"))?).await] {
        let Err(RequestError::Typed(StateError::Corrupt { reason })) = outcome else {
            anyhow::bail!("a broken ConfigMap is answered by {outcome:?}")
        };
        ensure!(reason.contains("agent_id") && reason.contains("pipeops-agent-state"), "{reason}");
    }
    ensure!(place.object(&lab, MAP).await? == before, "the broken ConfigMap was changed");
    ensure!(!keeper.health.is_ready(), "ready with a broken ConfigMap");

    let repaired = format!(r#"{{"data":{{"agent_id":"{}"}}}}"#, saved.agent_id);
    place.admin(&lab, &["patch", "configmap", "pipeops-agent-state", "--type=merge", "-p", &repaired]).await?;
    keeper.wait_ready(SOON).await?;
    let again = keeper.ask(&GetIdentity {}).await?;
    ensure!(again == saved, "repaired {again:?}, saved {saved:?}");
    keeper.stop().await?;
    lab.stop().await
}

#[tokio::test]
async fn a_refused_token_is_said_and_a_new_one_used_without_a_restart() -> Result<()> {
    let lab = lab().await?;
    let place = Place::prepare(&lab, "token").await?;
    let token = std::fs::read_to_string(&place.token_file)?;
    std::fs::write(&place.token_file, "nonsense")?;
    let keeper = Keeper::start(&place, &lab);
    let outcome = keeper.ask(&GetIdentity {}).await;
    let Err(RequestError::Typed(StateError::Unavailable { reason })) = &outcome else {
        anyhow::bail!("with a wrong token the answer is {outcome:?}")
    };
    ensure!(reason.contains("401"), "{reason}");
    std::fs::write(&place.token_file, token)?;
    keeper.wait_ready(SOON).await?;
    keeper.ask(&GetIdentity {}).await?;
    keeper.stop().await?;
    lab.stop().await
}

#[tokio::test]
async fn without_the_api_server_the_identity_is_known_and_nothing_is_saved() -> Result<()> {
    let lab = lab().await?;
    let place = Place::prepare(&lab, "away").await?;
    let keeper = Keeper::start(&place, &lab);
    let saved = keeper.ask(&registration("c-1", None)?).await?;
    let server = lab.process("kube-apiserver")?;

    for frozen in [false, true] {
        if frozen {
            server.freeze()?
        } else {
            server.kill().await?
        }
        let known = keeper.ask(&GetIdentity {}).await?;
        ensure!(known == saved, "known {known:?}, saved {saved:?}");
        let outcome = keeper.ask(&registration("c-2", None)?).await;
        let Err(RequestError::Typed(StateError::Unavailable { reason })) = &outcome else {
            anyhow::bail!("without an API server (frozen: {frozen}) saving is answered by {outcome:?}")
        };
        ensure!(reason.contains("API server"), "{reason}");
        ensure!(!keeper.health.is_ready(), "ready without an API server (frozen: {frozen})");
        if frozen {
            server.resume()?
        } else {
            server.start().await?
        }
        server.wait_ready(Duration::from_secs(60)).await?;
        keeper.wait_ready(SOON).await?;
    }
    let after = until("a registration after the outage", SOON, || async {
        keeper.ask(&registration("c-1", Some("t-2"))?).await.map_err(anyhow::Error::from)
    })
    .await?;
    ensure!(after.agent_id == saved.agent_id, "{after:?}");
    keeper.stop().await?;
    lab.stop().await
}

#[tokio::test]
async fn its_rights_reach_these_two_objects_and_no_others() -> Result<()> {
    let lab = lab().await?;
    let place = Place::prepare(&lab, "rights").await?;
    for (verb, object, expected) in [
        ("get", MAP, true),
        ("update", MAP, true),
        ("get", SECRET, true),
        ("update", SECRET, true),
        ("create", "configmaps", true),
        ("create", "secrets", true),
        ("get", "configmaps/other", false),
        ("get", "secrets/other", false),
        ("list", "secrets", false),
        ("watch", "configmaps", false),
        ("delete", MAP, false),
        ("get", "pods", false),
    ] {
        let who = format!("--as=system:serviceaccount:{}:{}", place.namespace, place.account);
        let answer = lab.admin().run(&["auth", "can-i", verb, object, "-n", &place.namespace, &who]).await?;
        ensure!((answer.stdout.trim() == "yes") == expected, "{verb} {object}: {}{}", answer.stdout, answer.stderr);
    }
    lab.stop().await
}
