//! The tokens: written like the rest, and never remembered.

use bus::state::{Done, LinkToken, SaveLinkToken, StateError, StoredLinkToken};
use k8s_openapi::api::core::v1::Secret as SecretObject;
use protocol::Secret;

use super::{ATTEMPTS, Store, pause};
use crate::record::{self, Corrupt};
use crate::storage::StorageError;

impl Store {
    /// The token to connect with.
    pub async fn link_token(&self) -> Result<StoredLinkToken, StateError> {
        self.bounded(async {
            let secret = self.secret().await?;
            let token = secret.as_ref().map(record::read_link_token).transpose();
            Ok(StoredLinkToken { token: token.map_err(|e| self.corrupt_secret(&e))?.flatten() })
        })
        .await
    }

    /// Keeps the token to connect with if it lasts at least as long as the one that is kept; None takes that away.
    pub async fn save_link_token(&self, SaveLinkToken { token }: SaveLinkToken) -> Result<Done, StateError> {
        let save = async {
            if token.is_some() {
                // The agent id is stored before any token is: a token alone means that the ConfigMap was lost.
                self.edit(|_| Ok(())).await?;
            }
            let changed = self
                .change_secret(|secret| {
                    let stored = record::read_link_token(secret);
                    if let Err(error) = &stored {
                        // It is of no use to anybody, and the control plane gives others.
                        tracing::warn!(%error, "replacing a stored link token that cannot be read");
                    }
                    let keep = match (&stored, &token) {
                        (Ok(Some(stored)), Some(token)) => stored == token || token.expires_at < stored.expires_at,
                        (Ok(None), None) => true,
                        _ => false,
                    };
                    if !keep {
                        record::write_link_token(secret, token.as_ref());
                    }
                    Ok(!keep)
                })
                .await?;
            if changed {
                let expires_at = token.as_ref().map(|LinkToken { expires_at, .. }| expires_at);
                tracing::info!(?expires_at, "the stored link token was replaced");
            }
            Ok(Done {})
        };
        self.bounded(save).await
    }

    /// Keeps the cluster's own token, which is never given to anybody.
    pub(super) async fn save_cluster_token(&self, token: Option<&Secret>) -> Result<(), StateError> {
        let change = self.change_secret(|secret| {
            let stored = record::read_token(secret).map_err(|e| self.corrupt_secret(&e))?;
            let differs = stored.as_ref() != token;
            if differs {
                record::write_token(secret, token);
            }
            Ok(differs)
        });
        change.await.map(|_changed| ())
    }

    /// Changes the Secret by `change`, which says whether it did.
    async fn change_secret(
        &self,
        change: impl Fn(&mut SecretObject) -> Result<bool, StateError>,
    ) -> Result<bool, StateError> {
        let _writing = self.writing.lock().await;
        for attempt in 0..ATTEMPTS {
            pause(attempt).await;
            let stored = self.secret().await?;
            let mut secret = stored.unwrap_or_else(|| record::new_secret(&self.secret_name));
            if !change(&mut secret)? {
                return Ok(false);
            }
            match self.storage.save(&secret).await {
                Ok(_) => return Ok(true),
                Err(StorageError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(self.contended::<SecretObject>(&self.secret_name))
    }

    fn corrupt_secret(&self, found: &Corrupt) -> StateError {
        self.corrupt::<SecretObject>(&self.secret_name, found)
    }
}
