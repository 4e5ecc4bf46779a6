//! The token that is shown to the control plane: the one that it has given over the link, else the one of the settings,
//! with which the first registration is made.

use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bus::state::{GetLinkToken, LinkToken, SaveLinkToken};
use bus::{Bus, RequestError};
use protocol::Secret;

use crate::options::PipeOps;

#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    #[error("no token: set PIPEOPS_TOKEN or PIPEOPS_TOKEN_FILE")]
    NoToken,
    #[error("cannot read the token file {path:?}")]
    TokenFile { path: PathBuf, source: io::Error },
}

#[derive(Debug)]
pub struct Credentials {
    bus: Bus,
    token: Option<Secret>,
    token_file: Option<PathBuf>,
    memory: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    /// The last that was given over a link of this process.
    given: Option<LinkToken>,
    /// The stored one is refused, and another was accepted: it goes when the next is stored.
    stale: bool,
}

impl Credentials {
    pub fn new(bus: Bus, options: &PipeOps) -> Self {
        let (token, token_file) = (options.token.clone(), options.token_file.clone());
        Self { bus, token, token_file, memory: Mutex::default() }
    }

    /// The token given last: to this process, or to another one of this agent.
    pub async fn given(&self) -> Result<Option<Secret>, String> {
        let stored = self.bus.request(&GetLinkToken {}).await.map_err(|error| error.to_string())?.token;
        let known = self.memory().given.clone();
        // What could not be stored is known to this process alone.
        let newest = known.into_iter().chain(stored).max_by_key(|token| token.expires_at);
        Ok(newest.map(|newest| newest.token))
    }

    /// The token of the settings. The file is read anew.
    pub fn of_settings(&self) -> Result<Secret, CredentialError> {
        let token = match (&self.token_file, &self.token) {
            (Some(path), _) => std::fs::read_to_string(path)
                .map(|text| Secret::new(text.trim()))
                .map_err(|source| CredentialError::TokenFile { path: path.clone(), source })?,
            (None, Some(token)) => token.clone(),
            (None, None) => return Err(CredentialError::NoToken),
        };
        if token.is_empty() { Err(CredentialError::NoToken) } else { Ok(token) }
    }

    /// The control plane refuses the token that it has given, and accepts that of the settings.
    pub fn given_is_stale(&self) {
        *self.memory() = Memory { given: None, stale: true };
    }

    /// Keeps a new token. From here on this process goes by it; an error says why others and later ones do not.
    pub async fn keep(&self, token: LinkToken) -> Result<(), RequestError<bus::state::StateError>> {
        let stale = {
            let mut memory = self.memory();
            memory.given = Some(token.clone());
            std::mem::take(&mut memory.stale)
        };
        if stale && let Err(error) = self.bus.request(&SaveLinkToken { token: None }).await {
            self.memory().stale = true;
            return Err(error);
        }
        self.bus.request(&SaveLinkToken { token: Some(token) }).await.map(drop)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
