//! The tokens in the Secret.

use bus::state::LinkToken;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret as SecretObject;
use protocol::Secret;

use super::Corrupt;

/// What the existing agent keeps: a token of Kubernetes, which no control plane is ever shown.
const CLUSTER_TOKEN: &str = "cluster_token";
const LINK_TOKEN: &str = "link_token";
const LINK_TOKEN_EXPIRES_AT: &str = "link_token_expires_at";

/// The cluster's token. An empty value is the same as none.
pub(crate) fn read_token(secret: &SecretObject) -> Result<Option<Secret>, Corrupt> {
    Ok(text(secret, CLUSTER_TOKEN)?.map(Secret::new))
}

/// Puts the token into the Secret, or takes it out, leaving alone whatever else is in it.
pub(crate) fn write_token(secret: &mut SecretObject, token: Option<&Secret>) {
    set(secret, CLUSTER_TOKEN, token.map(Secret::expose));
}

/// The token to connect with. An empty value is the same as none.
pub(crate) fn read_link_token(secret: &SecretObject) -> Result<Option<LinkToken>, Corrupt> {
    let Some(token) = text(secret, LINK_TOKEN)? else { return Ok(None) };
    let expires_at = text(secret, LINK_TOKEN_EXPIRES_AT)?.ok_or(Corrupt::NoExpiry)?;
    let expires_at: Timestamp = expires_at.parse().map_err(|_| Corrupt::NotATime { key: LINK_TOKEN_EXPIRES_AT })?;
    Ok(Some(LinkToken { token: Secret::new(token), expires_at }))
}

/// Puts it into the Secret, or takes it out, leaving alone whatever else is in it.
pub(crate) fn write_link_token(secret: &mut SecretObject, token: Option<&LinkToken>) {
    set(secret, LINK_TOKEN, token.map(|link| link.token.expose()));
    set(secret, LINK_TOKEN_EXPIRES_AT, token.map(|link| link.expires_at.to_string()).as_deref());
}

/// Whether the Secret is that of an agent which was registered once. What cannot be read says so too.
pub(crate) fn tokens_say_registered(secret: &SecretObject) -> bool {
    [CLUSTER_TOKEN, LINK_TOKEN].iter().any(|key| !matches!(text(secret, key), Ok(None)))
}

fn text<'a>(secret: &'a SecretObject, key: &'static str) -> Result<Option<&'a str>, Corrupt> {
    let Some(ByteString(bytes)) = secret.data.as_ref().and_then(|data| data.get(key)) else { return Ok(None) };
    let text = std::str::from_utf8(bytes).map_err(|_| Corrupt::NotText { key })?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

fn set(secret: &mut SecretObject, key: &str, value: Option<&str>) {
    let data = secret.data.get_or_insert_default();
    match value {
        Some(value) => drop(data.insert(key.to_owned(), ByteString(value.as_bytes().to_vec()))),
        None => drop(data.remove(key)),
    }
}
