//! What is under way with a token when it is revoked.

use anyhow::{Context, Result, bail, ensure};
use e2e::{Front, Protocol};
use lab::Lab;
use reqwest::{Method, Response};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, timeout_at};

const ENDS_WITHIN: Duration = Duration::from_secs(2);
/// What the machine may need on top, when it has much else to do.
const SPARE: Duration = Duration::from_secs(3);
const WATCH: &str = "/api/v1/namespaces/default/configmaps?watch=1";

/// The next piece of a response; None at its end.
async fn piece(response: &mut Response, deadline: Instant) -> Result<Option<Vec<u8>>> {
    let chunk = timeout_at(deadline, response.chunk()).await.context("it is silent")??;
    Ok(chunk.map(|chunk| chunk.to_vec()))
}

pub async fn a_watch_breaks_off_when_its_token_is_revoked_and_no_other_does(lab: Arc<Lab>) -> Result<()> {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let token = lab.create_token(&["--user", "leaver", "--group", "lab:admins"]).await?;
        let front = Front::through(&lab, protocol)?;
        let mut stays = front.get(WATCH).send().await?.error_for_status()?;
        let mut leaves = front.anonymous(Method::GET, WATCH).bearer_auth(&token).send().await?.error_for_status()?;
        let soon = Instant::now() + Duration::from_secs(10);
        for watch in [&mut stays, &mut leaves] {
            ensure!(piece(watch, soon).await?.is_some(), "{protocol:?}: a watch ends at once");
        }

        lab.control_plane(&["token", "revoke", &token]).await?;
        let revoked = Instant::now();
        let end = timeout_at(revoked + ENDS_WITHIN + SPARE, async {
            loop {
                match leaves.chunk().await {
                    Ok(Some(_)) => {}
                    Ok(None) => bail!("{protocol:?}: it ends as if it were complete"),
                    Err(_) => return Ok(()),
                }
            }
        });
        end.await.with_context(|| format!("{protocol:?}: it goes on after {:?}", revoked.elapsed()))??;

        // The other user's, on the same connection if there is but one.
        let name = format!("still-watched-{protocol:?}").to_lowercase();
        lab.admin().stdout(&["create", "configmap", &name, "-n", "default"]).await?;
        let soon = Instant::now() + Duration::from_secs(10);
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(&name) {
            seen.extend(
                piece(&mut stays, soon).await?.with_context(|| format!("{protocol:?}: the other watch ended"))?,
            );
        }
    }
    Ok(())
}
