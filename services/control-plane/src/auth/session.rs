//! The tokens of agents that are registered. Whoever runs the control plane makes one that is good for one registration;
//! over its link the agent is then given one that ends, and a new one long before it does.
//!
//! They are not stored: each is signed with a key of this control plane, and names the token that it comes from. With
//! that one's revocation they all end.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use http::HeaderMap;
use jiff::{SignedDuration, Timestamp};
use protocol::message::TokenRefresh;
use protocol::{AgentId, Secret, Status};
use tokio::task::spawn_blocking;

use super::record::{self, Grant, TokenRecord};
use super::{Tokens, bearer, invalid};
use runtime::files::write_atomically;

use crate::store::StoreError;

const KEY_BYTES: usize = 32;

/// What an agent has shown.
#[derive(Clone, Debug)]
pub struct AgentToken {
    /// The token that was made for its cluster.
    pub record: Arc<TokenRecord>,
    /// None: it was shown itself, for the first registration.
    pub session: Option<Session>,
}

/// A token that an agent was given over its link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub agent: AgentId,
    pub expires: Timestamp,
}

#[derive(Debug)]
pub struct AgentTokens {
    tokens: Arc<Tokens>,
    key: hmac::Key,
    lifetime: Duration,
}

impl AgentTokens {
    /// Reads the key from the data folder, and makes it the first time. Blocks.
    pub fn open(tokens: Arc<Tokens>, data_dir: &Path, lifetime: Duration) -> Result<Self, StoreError> {
        let path = data_dir.join("agent-tokens.key");
        let key = match fs::read(&path) {
            Ok(key) if key.len() == KEY_BYTES => key,
            Ok(_) => return Err(StoreError::Key { path }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = rand::random::<[u8; KEY_BYTES]>().to_vec();
                write_atomically(&path, &key).map_err(|source| StoreError::Write { path, source })?;
                key
            }
            Err(source) => return Err(StoreError::Read { path, source }),
        };
        Ok(Self { tokens, key: hmac::Key::new(hmac::HMAC_SHA256, &key), lifetime })
    }

    /// Whose token an agent's request carries.
    pub async fn authenticate(&self, headers: &HeaderMap) -> Result<AgentToken, Box<Status>> {
        let token = bearer(headers)?;
        if let Some(shown) = Shown::read(token) {
            return self.session(&shown).await;
        }
        let record = self.tokens.authenticate(headers).await?;
        let Grant::Agent { cluster } = &record.grant else {
            return Err(Box::new(Status::forbidden("this is a user's token; an agent needs one made with --agent")));
        };
        if let Some(used) = &record.used {
            return Err(Box::new(Status::unauthorized(format!(
                "this token was used at {:.0} by agent {}, and is good for one registration: that agent goes on with the \
                 token it was given. For another agent, or if that one's state is lost, make a new one: control-plane \
                 token create --agent --cluster {cluster}",
                used.at, used.agent
            ))));
        }
        Ok(AgentToken { record, session: None })
    }

    async fn session(&self, shown: &Shown<'_>) -> Result<AgentToken, Box<Status>> {
        let record = self.tokens.record(shown.id).await.ok_or_else(invalid)?;
        let Grant::Agent { cluster } = &record.grant else { return Err(invalid()) };
        if record.used.as_ref().is_some_and(|used| used.agent != shown.agent) {
            return Err(invalid());
        }
        let mac = record::unhex(shown.mac).ok_or_else(invalid)?;
        hmac::verify(&self.key, &signed(&record, &shown.agent, shown.expires), &mac).map_err(|_| invalid())?;
        if shown.expires <= Timestamp::now() {
            return Err(Box::new(Status::unauthorized(format!(
                "this agent's token ended at {:.0}, before it came back for a new one. Give it a new one to register \
                 with: control-plane token create --agent --cluster {cluster}",
                shown.expires
            ))));
        }
        let session = Session { agent: shown.agent.clone(), expires: shown.expires };
        Ok(AgentToken { record, session: Some(session) })
    }

    /// A new token for an agent that has registered with `record`.
    pub fn issue(&self, record: &TokenRecord, agent: &AgentId) -> TokenRefresh {
        let lifetime = SignedDuration::try_from(self.lifetime).unwrap_or(SignedDuration::MAX);
        // Whole seconds: what is signed is what is sent.
        let expires = Timestamp::now().saturating_add(lifetime).unwrap_or(Timestamp::MAX).as_second();
        let expires_at = Timestamp::from_second(expires).unwrap_or(Timestamp::MAX);
        let mac = hmac::sign(&self.key, &signed(record, agent, expires_at));
        let token = format!(
            "{}{}_{expires:x}_{}_{}",
            record::PREFIX,
            record.id,
            record::hex(agent.as_str().as_bytes()),
            record::hex(mac.as_ref())
        );
        TokenRefresh { token: Secret::new(token), expires_at }
    }

    /// The agent keeps the token that it was given: the one it registered with is used up.
    pub async fn used(&self, record: &Arc<TokenRecord>, agent: &AgentId) -> Result<(), StoreError> {
        let (tokens, record, agent) = (Arc::clone(&self.tokens), Arc::clone(record), agent.clone());
        let storing = spawn_blocking(move || tokens.mark_used(&record, &agent));
        storing.await.map_err(|died| self.tokens.folder.unusable(died.into()))?
    }
}

/// What a token's signature is of. The hash ties it to that one token, should another get its id.
fn signed(record: &TokenRecord, agent: &AgentId, expires: Timestamp) -> Vec<u8> {
    let mut text = Vec::from(*record.hash());
    text.extend_from_slice(&expires.as_second().to_be_bytes());
    text.extend_from_slice(agent.as_str().as_bytes());
    text
}

/// `pipeops_<id>_<end, seconds, hexadecimal>_<agent, hexadecimal>_<signature>`.
struct Shown<'a> {
    id: &'a str,
    expires: Timestamp,
    agent: AgentId,
    mac: &'a str,
}

impl<'a> Shown<'a> {
    fn read(token: &'a str) -> Option<Self> {
        let mut parts = token.strip_prefix(record::PREFIX)?.split('_');
        let (id, expires, agent, mac) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let expires = Timestamp::from_second(i64::from_str_radix(expires, 16).ok()?).ok()?;
        let agent = String::from_utf8(record::unhex(agent)?).ok()?;
        Some(Self { id, expires, agent: AgentId::new(agent).ok()?, mac })
    }
}

/// The id of a token that an agent was given; None if it is none.
pub fn session_id(token: &str) -> Option<&str> {
    Shown::read(token).map(|shown| shown.id)
}
