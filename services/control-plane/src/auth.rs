//! Bearer tokens: made here, shown once, stored as hashes.

mod record;
mod session;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, header};
use protocol::{AgentId, Secret, Status};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};

pub use record::{Grant, NewToken, TokenRecord};
pub use session::{AgentToken, AgentTokens};

use crate::store::{Contents, Folder, Follower, StoreError};

/// How long after one look at the folder the next may begin, however many ask for it.
const LOOK_GAP: Duration = Duration::from_millis(200);

/// All tokens, in memory; read again when the folder has changed.
#[derive(Debug)]
pub struct Tokens {
    folder: Folder<TokenRecord>,
    known: RwLock<HashMap<Box<str>, Arc<TokenRecord>>>,
    follower: Mutex<Follower>,
    /// When the last look began; held from the decision to look until its end.
    turn: Arc<tokio::sync::Mutex<Option<Instant>>>,
}

impl Tokens {
    /// Without any in memory: [`Tokens::refresh`] reads them.
    pub fn new(folder: Folder<TokenRecord>) -> Self {
        Self { folder, known: RwLock::default(), follower: Mutex::default(), turn: Arc::default() }
    }

    /// Makes a token and stores its hash. The secret exists only in what is returned. Blocks.
    pub fn create(&self, grant: Grant) -> Result<(TokenRecord, Secret), StoreError> {
        let NewToken { record, secret } = NewToken::generate(grant);
        self.folder.put(&record)?;
        Ok((record, secret))
    }

    /// As stored now. Blocks.
    pub fn get(&self, id: &str) -> Result<Option<TokenRecord>, StoreError> {
        self.folder.get(id)
    }

    /// True if there was one. Blocks.
    pub fn revoke(&self, id: &str) -> Result<bool, StoreError> {
        match self.folder.remove(id) {
            // Nothing can have that name.
            Err(StoreError::Name(_)) => Ok(false),
            outcome => outcome,
        }
    }

    /// Blocks. Of two agents that use it at once the first is kept.
    fn mark_used(&self, record: &TokenRecord, agent: &AgentId) -> Result<(), StoreError> {
        let stored = self.folder.get(&record.id)?;
        let Some(stored) = stored.filter(|stored| stored.is_same(record) && stored.used.is_none()) else {
            return Ok(());
        };
        let used = stored.used_by(agent).in_place_of(record);
        // In memory first: whoever sees it stored finds that it holds.
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(used.id.as_str().into(), Arc::new(used.clone()));
        drop(known);
        // One that is revoked meanwhile stays so.
        self.folder.replace(&used).map(drop)
    }

    /// As stored now. Blocks.
    pub fn list(&self) -> Result<Contents<TokenRecord>, StoreError> {
        self.folder.all()
    }

    /// Looks at the folder, and reads it if it may have changed. Whoever calls while a look is under way shares the next
    /// one, so that many callers cost as little as one.
    pub async fn refresh(self: &Arc<Self>) -> Result<(), StoreError> {
        let called = Instant::now();
        let mut turn = Arc::clone(&self.turn).lock_owned().await;
        if turn.is_some_and(|began| began > called) {
            return Ok(());
        }
        if let Some(began) = *turn {
            sleep_until(began + LOOK_GAP).await;
        }
        *turn = Some(Instant::now());
        let this = Arc::clone(self);
        let look = spawn_blocking(move || {
            let outcome = this.look();
            // Not before: a caller that is gone leaves the look under way.
            drop(turn);
            outcome
        });
        look.await.map_err(|died| self.folder.unusable(died.into()))?
    }

    fn look(&self) -> Result<(), StoreError> {
        const CONSEQUENCE: &str = "a token that was known goes on working until the control plane restarts";
        let mut follower = self.follower.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Contents { records, broken }) = follower.look(&self.folder, CONSEQUENCE)? else { return Ok(()) };
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *known);
        let kept = broken.keys().filter_map(|id| before.remove(id.as_str()).map(|record| (id.as_str().into(), record)));
        known.extend(kept);
        let mut ended = Vec::new();
        for record in records {
            let id = record.id.as_str().into();
            let record = match before.remove(record.id.as_str()) {
                // What is under way with a token that is as it was goes on.
                Some(old) if old.is_same(&record) && old.used == record.used => old,
                Some(old) if old.is_same(&record) => Arc::new(record.in_place_of(&old)),
                changed => {
                    ended.extend(changed);
                    Arc::new(record)
                }
            };
            known.insert(id, record);
        }
        // Not under the lock: what is woken by it may ask for a token.
        drop(known);
        for record in ended.iter().chain(before.values()) {
            record.revoked().cancel();
        }
        Ok(())
    }

    /// Whose token the request carries. One that is not known waits until the folder has been looked at once more, so a
    /// new token works from its first request on, and any number of wrong ones costs one look per [`LOOK_GAP`].
    pub async fn authenticate(self: &Arc<Self>, headers: &HeaderMap) -> Result<Arc<TokenRecord>, Box<Status>> {
        let (id, secret) = record::split(bearer(headers)?).ok_or_else(invalid)?;
        let record = self.record(id).await.ok_or_else(invalid)?;
        if record.matches(secret) { Ok(record) } else { Err(invalid()) }
    }

    /// The token of that id; looks at the folder for one that is not known.
    async fn record(self: &Arc<Self>, id: &str) -> Option<Arc<TokenRecord>> {
        let known = self.known(id);
        if known.is_some() {
            return known;
        }
        // Boxed: the many requests with known tokens need not carry its state.
        Box::pin(async {
            if let Err(error) = self.refresh().await {
                tracing::error!(error = &error as &dyn std::error::Error, "cannot look for a new token");
            }
        })
        .await;
        self.known(id)
    }

    fn known(&self, id: &str) -> Option<Arc<TokenRecord>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }
}

/// The id of a whole token; None if it is none.
pub fn token_id(token: &str) -> Option<&str> {
    record::split(token).map(|(id, _)| id).or_else(|| session::session_id(token))
}

/// A browser's `Basic` as what it stands for: the password is the token, whatever the user's name.
pub fn bearer_of_basic(headers: &HeaderMap) -> Option<HeaderValue> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (_, encoded) = value.split_at_checked(6).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"basic "))?;
    let decoded = STANDARD.decode(encoded.trim_ascii()).ok()?;
    let at = decoded.iter().position(|byte| *byte == b':')?;
    let mut value = HeaderValue::try_from([b"Bearer ", decoded.get(at + 1..)?].concat()).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn bearer(headers: &HeaderMap) -> Result<&str, Box<Status>> {
    headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.as_bytes().split_at_checked(7))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "))
        .and_then(|(_, token)| std::str::from_utf8(token).ok())
        .map(str::trim)
        .ok_or_else(|| Box::new(Status::unauthorized("this request carries no bearer token")))
}

fn invalid() -> Box<Status> {
    Box::new(Status::unauthorized(
        "the bearer token is not valid here: it is mistyped, revoked, or another control plane's",
    ))
}
