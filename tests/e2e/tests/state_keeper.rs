//! state-keeper against a real API server, with exactly the rights that the chart gives it: one identity, kept through restarts, lost
//! and broken objects, several replicas, a refused token and an API server that goes away.

#[path = "state_keeper/place.rs"]
mod place;

use anyhow::{Context, Result, ensure};
use bus::{
    RequestError,
    state::{
        AcquireLease, GetConfig, GetIdentity, GetLinkToken, LeaseName, LeaseState, LinkToken, ReleaseLease, SaveConfig,
        SaveLinkToken, SaveRegistration, StateError,
    },
};
use e2e::place::Place;
use lab::{Lab, Options, until};
use place::{Keeper, LEASE, MAP, SECRET};
use protocol::{ClusterConfig, Secret};
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
    let place = Place::prepare(&lab, "state-keeper", "kept", &[]).await?;

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
    let place = Place::prepare(&lab, "state-keeper", "replicas", &[]).await?;
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
    let place = Place::prepare(&lab, "state-keeper", "broken", &[]).await?;
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
    let place = Place::prepare(&lab, "state-keeper", "token", &[]).await?;
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
    let place = Place::prepare(&lab, "state-keeper", "away", &[]).await?;
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
async fn tokens_and_configuration_lie_beside_the_identity_and_other_replicas_see_them() -> Result<()> {
    let lab = lab().await?;
    let place = Place::prepare(&lab, "state-keeper", "given", &[]).await?;
    let keeper = Keeper::start(&place, &lab);
    let other = Keeper::start(&place, &lab);
    ensure!(other.ask(&GetConfig {}).await?.config.is_none(), "a configuration before the first");
    keeper.ask(&registration("c-1", Some("t-1"))?).await?;
    let token = LinkToken { token: Secret::new("l-1"), expires_at: "2026-11-27T12:00:00Z".parse()? };
    keeper.ask(&SaveLinkToken { token: Some(token.clone()) }).await?;
    let config = ClusterConfig { revision: 3, ..ClusterConfig::default() };
    keeper.ask(&SaveConfig { config: config.clone() }).await?;

    let map = place.object(&lab, MAP).await?.context("there is no ConfigMap")?;
    ensure!(map["data"]["cluster_config"] == r#"{"revision":3}"#, "{map}");
    let secret = place.object(&lab, SECRET).await?.context("there is no Secret")?;
    let expected =
        json!({"cluster_token": "dC0x", "link_token": "bC0x", "link_token_expires_at": "MjAyNi0xMS0yN1QxMjowMDowMFo="});
    ensure!(secret["data"] == expected, "{secret}");
    until("the other replica to see the configuration", SOON, || async {
        let stored = other.ask(&GetConfig {}).await?.config;
        ensure!(stored.as_ref() == Some(&config), "{stored:?}");
        Ok(())
    })
    .await?;
    let stored = other.ask(&GetLinkToken {}).await?.token;
    ensure!(stored.as_ref() == Some(&token), "{stored:?}");
    other.ask(&SaveLinkToken { token: None }).await?;
    let secret = place.object(&lab, SECRET).await?.context("there is no Secret")?;
    ensure!(secret["data"] == json!({"cluster_token": "dC0x"}), "{secret}");

    let broken = r#"{"data":{"cluster_config":"{"}}"#;
    place.admin(&lab, &["patch", "configmap", "pipeops-agent-state", "--type=merge", "-p", broken]).await?;
    until("the broken configuration to be said", SOON, || async {
        let answer = keeper.ask(&GetConfig {}).await;
        ensure!(matches!(answer, Err(RequestError::Typed(StateError::Corrupt { .. }))), "{answer:?}");
        Ok(())
    })
    .await?;
    keeper.ask(&GetIdentity {}).await?;
    ensure!(!keeper.health.is_ready(), "ready with a broken configuration");
    keeper.ask(&SaveConfig { config: config.clone() }).await?;
    keeper.wait_ready(SOON).await?;
    keeper.stop().await?;
    other.stop().await?;
    lab.stop().await
}

#[tokio::test]
async fn a_lease_passes_on_when_its_holder_gives_it_back_or_falls_silent() -> Result<()> {
    let lab = lab().await?;
    let place = Place::prepare(&lab, "state-keeper", "leases", &[]).await?;
    let keepers = [Keeper::start(&place, &lab), Keeper::start(&place, &lab)];
    let [one, other] = &keepers;
    let name = LeaseName::RouteSyncer;
    let ask = |holder: &str, ttl_seconds| AcquireLease { name, holder: holder.to_owned(), ttl_seconds };
    let held = |holder: &str, held| LeaseState { held, holder: holder.to_owned() };

    let (a, b) = (ask("a", 600), ask("b", 600));
    let states = tokio::try_join!(one.ask(&a), other.ask(&b))?;
    ensure!(states.0.held != states.1.held && states.0.holder == states.1.holder, "both asked at once: {states:?}");
    let (first, second) = if states.0.held { ("a", "b") } else { ("b", "a") };
    for keeper in &keepers {
        ensure!(keeper.ask(&ask(second, 600)).await? == held(first, false), "{second} was given what {first} holds");
        ensure!(keeper.ask(&ask(first, 600)).await? == held(first, true), "{first} cannot keep its lease");
    }
    let lease = place.object(&lab, LEASE).await?.context("there is no Lease")?;
    ensure!(lease["spec"]["holderIdentity"] == first && lease["spec"]["leaseDurationSeconds"] == 600, "{lease}");

    other.ask(&ReleaseLease { name, holder: second.to_owned() }).await?;
    ensure!(one.ask(&ask(second, 600)).await? == held(first, false), "somebody else gave it back");
    other.ask(&ReleaseLease { name, holder: first.to_owned() }).await?;
    ensure!(one.ask(&ask(second, 2)).await? == held(second, true), "what was given back is not free");
    // From here on `second` is silent.
    until("the lease to be over", SOON, || async {
        let state = other.ask(&ask(first, 2)).await?;
        ensure!(state.held, "{state:?}");
        Ok(())
    })
    .await?;
    for keeper in keepers {
        keeper.stop().await?;
    }
    lab.stop().await
}

#[tokio::test]
async fn its_rights_reach_its_own_objects_and_no_others() -> Result<()> {
    let lab = lab().await?;
    let place = Place::prepare(&lab, "state-keeper", "rights", &[]).await?;
    for (verb, object, expected) in [
        ("get", MAP, true),
        ("update", MAP, true),
        ("get", SECRET, true),
        ("update", SECRET, true),
        ("create", "configmaps", true),
        ("create", "secrets", true),
        ("get", LEASE, true),
        ("update", LEASE, true),
        ("create", "leases.coordination.k8s.io", true),
        ("get", "leases.coordination.k8s.io/other", false),
        ("list", "leases.coordination.k8s.io", false),
        ("delete", LEASE, false),
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
