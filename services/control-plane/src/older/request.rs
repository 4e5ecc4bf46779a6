//! A request as messages.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use exchange::BoxError;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode, Uri};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Limited};
use protocol::message::proxied::{Headers, ProxyCommand, ProxyRequest};
use protocol::status::is_relayed;
use protocol::{Status, Target, User, hop, identity};

use super::answer::{self, Body};
use super::exchange::{Broken, Kind, Said};
use super::{NO_TOKEN, Shared};
use crate::site::RequestBody;

const IMPERSONATE_USER: HeaderName = HeaderName::from_static("impersonate-user");
const IMPERSONATE_GROUP: HeaderName = HeaderName::from_static("impersonate-group");

/// A body of known length up to this goes with the request itself.
const SMALL: u64 = 64 * 1024;
/// Of a longer one, in one message.
const PIECE: usize = 32 * 1024;

/// How long an exchange may take, in milliseconds: an agent that is told nothing gives it two minutes.
const LONGEST_MS: u64 = 24 * 60 * 60 * 1000;

/// What the API server says when it forbids something is shorter.
const LONGEST_REFUSAL: usize = 1 << 20;

/// What such an agent takes to the API server. All else goes to the ingress controller of its cluster, the credentials
/// included.
const PATHS: [&str; 7] = ["api", "apis", "healthz", "readyz", "livez", "version", "openapi"];

/// Whom a request is for.
#[derive(Clone, Copy, Debug)]
pub enum Recipient<'a> {
    /// For this user.
    ApiServer(&'a User),
    /// The Service judges credentials itself.
    Service(&'a Target),
}

/// Sends `request`, and waits for the beginning of the answer.
pub async fn send(
    shared: &Arc<Shared>,
    cluster: &str,
    request: Request<RequestBody>,
    recipient: Recipient<'_>,
) -> Result<Response<Body>, Box<Status>> {
    let (mut head, body) = request.into_parts();
    let target = match recipient {
        Recipient::ApiServer(user) => {
            check_path(&head.uri)?;
            with_identity(shared, cluster, &mut head.headers, user)?;
            None
        }
        Recipient::Service(target) => {
            without_websocket(&mut head.headers)?;
            Some(target)
        }
    };
    // Its own: the length of what it sends.
    head.headers.remove(header::CONTENT_LENGTH);
    let mut message = ProxyRequest {
        method: head.method.as_str().to_owned(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: Headers::from(&head.headers),
        supports_streaming: true,
        supports_response_streaming: true,
        timeout: Some(LONGEST_MS.into()),
        scheme: target.map(|_| "http".to_owned()),
        namespace: target.map(|target| target.namespace().to_owned()),
        service_name: target.map(|target| target.service().to_owned()),
        service_port: target.map(|target| target.port().get()),
        ..ProxyRequest::default()
    };
    let rest = match body.size_hint().exact() {
        _ if body.is_end_stream() => None,
        Some(length) if length <= SMALL => {
            let whole = body.collect().await.map_err(|error| {
                Box::new(Status::bad_request(format!("the request's body broke off: {}", runtime::error_text(&*error))))
            })?;
            message.body = Some(STANDARD.encode(whole.to_bytes()).into());
            message.body_encoding = Some("base64".to_owned());
            None
        }
        _ => {
            message.use_streaming = true;
            Some(body)
        }
    };
    let mut ticket = shared.begin(Kind::Request)?;
    let lost = |_| Box::new(Status::unavailable(format!("the link to cluster {cluster:?} was lost; try again soon")));
    shared.send(ticket.id(), &ProxyCommand::Request(Box::new(message))).await.map_err(lost)?;
    if let Some(body) = rest {
        let (shared, exchange) = (Arc::clone(shared), Arc::clone(&ticket.exchange));
        ticket.upload(async move {
            if let Err(error) = upload(&shared, &exchange.id, body).await {
                let broken = Broken::Upload(Broken::text(&runtime::error_text(&*error).to_string()));
                shared.table.give(&exchange.id, Said::Broken(broken));
            }
        });
    }
    let response = answer::of(ticket, &head.method, shared.options.max_unpacked).await;
    let response = response.map_err(|broken| no_answer(cluster, &broken))?;
    match response.status() {
        // A Service, as what is behind a proxy of the API server, may refuse for reasons of its own.
        _ if target.is_some() || is_relayed(head.uri.path()) => Ok(response),
        StatusCode::UNAUTHORIZED => {
            tracing::warn!(cluster, "the API server refuses the token that the agent sent when it registered");
            Err(Box::new(Status::unavailable(format!(
                "the API server of cluster {cluster:?} refused the token that its agent sent when it registered (401); restart the agent, so that it sends the one it has now"
            ))))
        }
        StatusCode::FORBIDDEN if !response.body().is_end_stream() => check_impersonation(cluster, response).await,
        _ => Ok(response),
    }
}

/// Gives `response` back, unless the agent is what it forbids: kubectl would print hardly anything of that, and the user
/// could do nothing about it.
async fn check_impersonation(cluster: &str, response: Response<Body>) -> Result<Response<Body>, Box<Status>> {
    let (head, body) = response.into_parts();
    let whole = Limited::new(body, LONGEST_REFUSAL).collect().await.map_err(|error| {
        let reason = Broken::Malformed(Broken::text(&runtime::error_text(&*error).to_string()));
        no_answer(cluster, &reason)
    })?;
    let bytes = whole.to_bytes();
    let refused =
        serde_json::from_slice(&bytes).ok().filter(|status: &Status| status.message.contains("cannot impersonate"));
    if let Some(refused) = refused {
        tracing::warn!(cluster, reason = refused.message, "the agent may not act for users");
        return Err(Box::new(Status::unavailable(format!(
            "the agent of cluster {cluster:?} may not act for users: give its ServiceAccount the verb impersonate on users and groups ({})",
            refused.message
        ))));
    }
    Ok(Response::from_parts(head, Body::whole(bytes)))
}

/// For a Service. The agent takes whatever speaks of WebSockets for one, which it relays in a way of its own.
fn without_websocket(headers: &mut HeaderMap) -> Result<(), Box<Status>> {
    if hop::upgrade_type(headers).is_some() {
        return Err(Box::new(Status::failure(
            501,
            "NotImplemented",
            "the agent of its cluster speaks only the older protocol, which carries no WebSocket to an app: update the agent".to_owned(),
        )));
    }
    hop::strip_hop_by_hop(headers);
    let astray: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("sec-websocket-")).cloned().collect();
    for name in &astray {
        headers.remove(name);
    }
    Ok(())
}

/// Sends the body as it comes.
async fn upload(shared: &Shared, id: &str, mut body: RequestBody) -> Result<(), BoxError> {
    while let Some(frame) = body.frame().await {
        // Trailers have no place in a message.
        let Ok(mut data) = frame?.into_data() else { continue };
        while !data.is_empty() {
            let piece: Bytes = data.split_to(PIECE.min(data.len()));
            shared.send(id, &ProxyCommand::Chunk(piece)).await?;
        }
    }
    shared.send(id, &ProxyCommand::End).await?;
    Ok(())
}

fn no_answer(cluster: &str, broken: &Broken) -> Box<Status> {
    tracing::warn!(cluster, reason = %broken, "request got no answer from the cluster");
    Box::new(Status::bad_gateway(format!(
        "cluster {cluster:?} gave no answer, and it is not known whether the request takes effect: {broken}"
    )))
}

/// Refuses what the agent would not take to the API server.
pub fn check_path(uri: &Uri) -> Result<(), Box<Status>> {
    let first = uri.path().trim_start_matches('/').split('/').next().unwrap_or_default();
    if uri.path().starts_with("//") || !PATHS.contains(&first) {
        return Err(Box::new(Status::not_found(format!(
            "the agent of this cluster speaks only the older protocol, with which {} cannot be reached: only what begins with /{}",
            uri.path(),
            PATHS.join(", /")
        ))));
    }
    Ok(())
}

/// Makes `headers` those that the agent gives to the API server: with its own token, for `user`.
///
/// Nothing may stay in them that makes the agent take another way: it looks up who forwarded a request in its routes, takes
/// one that speaks of WebSockets for one, and then forgets all headers, so that the request would run as itself.
pub fn with_identity(shared: &Shared, cluster: &str, headers: &mut HeaderMap, user: &User) -> Result<(), Box<Status>> {
    let authorization = shared.authorization().ok_or_else(|| {
        Box::new(Status::unavailable(format!("cluster {cluster:?} takes no requests: its agent {NO_TOKEN}")))
    })?;
    hop::strip_hop_by_hop(headers);
    identity::strip(headers);
    let leads_astray = |name: &HeaderName| {
        *name == header::HOST
            || *name == header::FORWARDED
            || ["x-forwarded-", "sec-websocket-"].into_iter().any(|start| name.as_str().starts_with(start))
    };
    let astray: Vec<HeaderName> = headers.keys().filter(|name| leads_astray(name)).cloned().collect();
    for name in &astray {
        headers.remove(name);
    }
    headers.insert(header::AUTHORIZATION, authorization);
    headers.insert(IMPERSONATE_USER, named(&user.name)?);
    for group in &user.groups {
        headers.append(IMPERSONATE_GROUP, named(group)?);
    }
    Ok(())
}

fn named(name: &str) -> Result<HeaderValue, Box<Status>> {
    HeaderValue::from_bytes(name.as_bytes()).ok().filter(|_| identity::is_acceptable(name)).ok_or_else(|| {
        Box::new(Status::bad_request(format!(
            "the name {name:?} cannot be given to the API server: it does not fit a header"
        )))
    })
}
