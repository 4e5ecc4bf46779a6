//! Requests that are refused: by the control plane, and by the API server.

use crate::show::failure;
use anyhow::{Context, Result, ensure};
use e2e::{Front, Protocol};
use lab::{Lab, until};
use reqwest::Method;
use serde_json::Value;
use std::{sync::Arc, time::Duration};

const REVOKED_WITHIN: Duration = Duration::from_secs(10);
const BAD_TOKEN: &str = "the bearer token is not valid here: it is mistyped, revoked, or another control plane's";

/// The first command of a user: nothing is known yet of what the cluster serves. kubectl prints nothing of a `Status` it gets for its
/// own questions, so the reason comes as a warning.
fn first<'a>(args: &[&'a str], cache: &'a str) -> Vec<&'a str> {
    [args, &["--cache-dir", cache]].concat()
}

pub async fn an_unknown_cluster_is_named(lab: Arc<Lab>) -> Result<()> {
    let server = format!("--server={}", lab.proxy_url()?.replace("/lab/", "/typo/"));
    let said = failure(lab.proxied()?, &["get", "--raw", "/api/v1/pods", &server]).await?;
    let wanted = r#"Error from server (NotFound): cluster "typo" is not known to this control plane"#;
    ensure!(said == wanted, "{said}");
    let cache = lab.folder().join("cache-typo").display().to_string();
    let said = failure(lab.proxied()?, &first(&["get", "pods", &server], &cache)).await?;
    let wanted = "Warning: cluster \"typo\" is not known to this control plane\n\
                  Error from server (NotFound): the server could not find the requested resource";
    ensure!(said == wanted, "{said}");
    let helm = lab.helm(&["list", "--kube-apiserver", server.trim_start_matches("--server=")]).await?;
    ensure!(!helm.success() && helm.stderr.contains(r#"cluster \"typo\" is not known"#), "{helm:?}");
    Ok(())
}

pub async fn a_bad_token_is_said_to_be_bad(lab: Arc<Lab>) -> Result<()> {
    let said = failure(lab.proxied()?, &["get", "--raw", "/api/v1/pods", "--token=mistyped"]).await?;
    ensure!(said == format!("error: You must be logged in to the server ({BAD_TOKEN})"), "{said}");
    let cache = lab.folder().join("cache-token").display().to_string();
    let said = failure(lab.proxied()?, &first(&["get", "pods", "--token=mistyped"], &cache)).await?;
    let generic =
        "error: You must be logged in to the server (the server has asked for the client to provide credentials)";
    ensure!(said == format!("Warning: {BAD_TOKEN}\n{generic}"), "{said}");
    // The agent's own token is not a user's.
    let token = format!("--token={}", lab.agent_token()?);
    let said = failure(lab.proxied()?, &["get", "--raw", "/api/v1/pods", &token]).await?;
    ensure!(said.starts_with("Error from server (Forbidden): "), "{said}");
    Ok(())
}

pub async fn a_revoked_token_stops_working(lab: Arc<Lab>) -> Result<()> {
    let token = lab.create_token(&["--user", "leaver", "--group", "lab:admins"]).await?;
    let user = lab.kubectl_with_token("leaver", &token)?;
    user.stdout(&["get", "namespaces"]).await?;
    let list = lab.control_plane(&["token", "list"]).await?;
    let id = list
        .lines()
        .find(|line| line.contains("user leaver"))
        .and_then(|line| line.split_whitespace().next())
        .with_context(|| format!("the list has no such token: {list}"))?;
    ensure!(!list.contains(&token), "the list shows tokens");
    lab.control_plane(&["token", "revoke", id]).await?;
    let said = until("the token to be refused", REVOKED_WITHIN, || failure(&user, &["get", "namespaces"])).await?;
    ensure!(said == format!("error: You must be logged in to the server ({BAD_TOKEN})"), "{said}");
    Ok(())
}

pub async fn a_token_for_other_clusters_is_refused(lab: Arc<Lab>) -> Result<()> {
    let token = lab.create_token(&["--user", "elsewhere", "--cluster", "other"]).await?;
    let user = lab.kubectl_with_token("elsewhere", &token)?;
    let said = failure(&user, &["get", "--raw", "/api/v1/pods"]).await?;
    ensure!(said == r#"Error from server (Forbidden): this token does not reach cluster "lab""#, "{said}");
    // Nothing shows whether there is such a cluster, except of one that the token does reach.
    for (name, wanted) in [
        ("typo", r#"Error from server (Forbidden): this token does not reach cluster "typo""#),
        ("other", r#"Error from server (NotFound): cluster "other" is not known to this control plane"#),
    ] {
        let server = format!("--server={}", lab.proxy_url()?.replace("/lab/", &format!("/{name}/")));
        let said = failure(&user, &["get", "--raw", "/api/v1/pods", &server]).await?;
        ensure!(said == wanted, "{said}");
    }
    Ok(())
}

pub async fn impersonation_is_refused_with_the_reason(lab: Arc<Lab>) -> Result<()> {
    lab.kubectl(&["get", "pods"]).await?;
    let said = failure(lab.proxied()?, &["get", "pods", "--as=somebody"]).await?;
    let wanted = "Error from server (Forbidden): impersonation (kubectl --as) is not possible through the control plane: \
                  requests already run as the token's user";
    ensure!(said == wanted, "{said}");
    // A token cannot be made stronger by its group's name either.
    let token = lab.create_token(&["--user", "mallory", "--group", "system:masters"]).await?;
    let said = failure(&lab.kubectl_with_token("mallory", &token)?, &["get", "--raw", "/api/v1/pods"]).await?;
    ensure!(
        said.starts_with(
            r#"Error from server (Forbidden): this cluster does not accept the identity "system:masters""#
        ),
        "{said}"
    );
    Ok(())
}

pub async fn a_user_without_rights_reads_what_the_api_server_says(lab: Arc<Lab>) -> Result<()> {
    let token = lab.create_token(&["--user", "guest"]).await?;
    let guest = lab.kubectl_with_token("guest", &token)?;
    for args in [
        &["get", "pods"][..],
        &["get", "secrets", "--all-namespaces"],
        &["create", "configmap", "a"],
        &["delete", "namespace", "kube-system"],
        &["get", "--raw", "/metrics"],
    ] {
        let said = failure(&guest, args).await?;
        ensure!(said.contains(r#"forbidden: User "guest" cannot "#), "{said}");
        let straight = failure(lab.admin(), &[args, &["--as=guest"]].concat()).await?;
        ensure!(said == straight, "straight {straight:?}, through the agent {said:?}");
    }
    Ok(())
}

pub async fn errors_are_status_objects_for_every_client(lab: Arc<Lab>) -> Result<()> {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let through = Front::through(&lab, protocol)?;
        let cases = [
            (through.anonymous(Method::GET, "/api/v1/pods"), 401, "Unauthorized"),
            (through.anonymous(Method::POST, "/api/v1/pods").bearer_auth("wrong"), 401, "Unauthorized"),
            (through.get("/api/v1/pods").header("impersonate-user", "x"), 403, "Forbidden"),
        ];
        for (request, code, reason) in cases {
            let response = request.send().await?;
            ensure!(response.status() == code, "{}", response.status());
            ensure!(response.headers().get("content-type").is_some_and(|kind| kind == "application/json"), "no JSON");
            ensure!(code != 401 || response.headers().contains_key("www-authenticate"), "401 without a challenge");
            let status: Value = response.json().await?;
            let text = |pointer| status.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            ensure!(text("/kind") == "Status" && text("/apiVersion") == "v1", "{status}");
            ensure!(text("/status") == "Failure" && text("/reason") == reason, "{status}");
            ensure!(status.pointer("/code").and_then(Value::as_u64) == Some(code.into()), "{status}");
            ensure!(!text("/message").is_empty(), "{status}");
        }
    }
    Ok(())
}
