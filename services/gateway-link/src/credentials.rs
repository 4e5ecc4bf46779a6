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
    /// The last that was given, or stored, as far as this process knows.
    known: Option<LinkToken>,
    /// It is not stored: no other process knows it.
    unsaved: bool,
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
        let stored = self.bus.request(&GetLinkToken {}).await;
        let mut memory = self.memory();
        let known = match stored {
            Ok(stored) => {
                let unsaved = memory.known.take().filter(|_| memory.unsaved);
                memory.known = unsaved.into_iter().chain(stored.token).max_by_key(|token| token.expires_at);
                memory.known.clone()
            }
            // While nobody can say what is stored, what was known before is as good.
            Err(error) => Some(memory.known.clone().ok_or_else(|| error.to_string())?),
        };
        Ok(known.map(|known| known.token))
    }

    /// It is refused: nothing but what is stored counts from here on.
    pub fn refused(&self) {
        let mut memory = self.memory();
        (memory.known, memory.unsaved) = (None, false);
    }

    /// The token of the settings. The file is read anew. Blocks.
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

    /// The control plane accepts the token of the settings in place of the refused one.
    pub fn given_is_stale(&self) {
        self.memory().stale = true;
    }

    /// Keeps a new token. From here on this process goes by it; an error says why others and later ones do not.
    pub async fn keep(&self, token: LinkToken) -> Result<(), RequestError<bus::state::StateError>> {
        let stale = {
            let mut memory = self.memory();
            (memory.known, memory.unsaved) = (Some(token.clone()), true);
            memory.stale
        };
        if stale {
            self.bus.request(&SaveLinkToken { token: None }).await?;
        }
        self.bus.request(&SaveLinkToken { token: Some(token.clone()) }).await?;
        let mut memory = self.memory();
        memory.stale = false;
        if memory.known.as_ref() == Some(&token) {
            memory.unsaved = false;
        }
        Ok(())
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
