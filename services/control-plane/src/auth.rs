//! Bearer tokens: made here, shown once, stored as hashes.

mod record;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, header};
use protocol::{Secret, Status};

pub use record::{Grant, NewToken, TokenRecord};

use crate::store::{Folder, StoreError};

/// A folder changed this recently may change again within the same tick of its clock.
const CLOCK_TICK: Duration = Duration::from_secs(1);

/// All tokens, in memory; read again when the folder has changed.
#[derive(Debug)]
pub struct Tokens {
    folder: Folder<TokenRecord>,
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    by_id: HashMap<Box<str>, Arc<TokenRecord>>,
    /// The folder's time of change when it was read, if that was safely in the past.
    as_of: Option<SystemTime>,
}

impl Tokens {
    pub fn open(folder: Folder<TokenRecord>) -> Result<Self, StoreError> {
        let tokens = Self { folder, known: RwLock::default() };
        tokens.refresh()?;
        Ok(tokens)
    }

    /// Makes a token and stores its hash. The secret exists only in what is returned.
    pub fn create(&self, grant: Grant) -> Result<(TokenRecord, Secret), StoreError> {
        let NewToken { record, secret } = NewToken::generate(grant);
        self.folder.put(&record.id, &record)?;
        Ok((record, secret))
    }

    pub fn revoke(&self, id: &str) -> Result<bool, StoreError> {
        self.folder.remove(id)
    }

    pub fn list(&self) -> Result<Vec<TokenRecord>, StoreError> {
        self.folder.all()
    }

    /// Reads the folder if it may have changed. Called every second, and for a token that is not known.
    pub fn refresh(&self) -> Result<(), StoreError> {
        let changed = self.folder.changed()?;
        if self.known.read().unwrap_or_else(PoisonError::into_inner).as_of == Some(changed) {
            return Ok(());
        }
        let settled = changed.elapsed().is_ok_and(|age| age > CLOCK_TICK);
        let by_id = self.folder.all()?.into_iter().map(|t| (t.id.clone().into_boxed_str(), Arc::new(t))).collect();
        *self.known.write().unwrap_or_else(PoisonError::into_inner) =
            Known { by_id, as_of: settled.then_some(changed) };
        Ok(())
    }

    /// Whose token the request carries.
    pub fn authenticate(&self, headers: &HeaderMap) -> Result<Arc<TokenRecord>, Box<Status>> {
        let bearer = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.as_bytes().split_at_checked(7))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "))
            .and_then(|(_, token)| std::str::from_utf8(token).ok())
            .ok_or_else(|| Box::new(Status::unauthorized("this request carries no bearer token")))?;
        self.find(bearer.trim()).ok_or_else(|| {
            Box::new(Status::unauthorized(
                "the bearer token is not valid here: it is mistyped, revoked, or another control plane's",
            ))
        })
    }

    /// False once the token has been revoked.
    pub fn is_valid(&self, id: &str) -> bool {
        self.known.read().unwrap_or_else(PoisonError::into_inner).by_id.contains_key(id)
    }

    fn find(&self, token: &str) -> Option<Arc<TokenRecord>> {
        let (id, secret) = record::split(token)?;
        let known = self.get(id).or_else(|| {
            if let Err(error) = self.refresh() {
                tracing::error!(error = &error as &dyn std::error::Error, "cannot read the tokens");
            }
            self.get(id)
        })?;
        known.matches(secret).then_some(known)
    }

    fn get(&self, id: &str) -> Option<Arc<TokenRecord>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).by_id.get(id).cloned()
    }
}
