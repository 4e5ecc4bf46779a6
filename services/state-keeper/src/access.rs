//! The client of the API server, kept for as long as its token is good.

use std::sync::{Mutex, MutexGuard, PoisonError};

use kube::Client;
use kubernetes::AccessError;

use crate::Kubernetes;

/// A client that is made when it is first needed and again after [`Access::forget`].
#[derive(Debug)]
pub(crate) struct Access {
    options: Kubernetes,
    namespace: String,
    client: Mutex<Cached>,
}

/// kube's client has no `Debug`.
struct Cached(Option<Client>);

impl std::fmt::Debug for Cached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "connected" } else { "none" })
    }
}

impl Access {
    pub fn new(options: Kubernetes, namespace: String) -> Self {
        Self { options, namespace, client: Mutex::new(Cached(None)) }
    }

    /// Access through a given client, for tests.
    #[cfg(test)]
    pub fn fixed(client: Client, namespace: &str) -> Self {
        let access = Self::new(Kubernetes::default(), namespace.to_owned());
        access.lock().0 = Some(client);
        access
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The client. Must be called on the tokio runtime.
    pub fn client(&self) -> Result<Client, AccessError> {
        let mut cached = self.lock();
        if let Some(client) = &cached.0 {
            return Ok(client.clone());
        }
        let client = self.options.server.client(&self.namespace, self.options.timeout.get())?;
        cached.0 = Some(client.clone());
        Ok(client)
    }

    /// The API server refused our token: read the file again for the next request instead of within a minute.
    pub fn forget(&self) {
        self.lock().0 = None;
    }

    fn lock(&self) -> MutexGuard<'_, Cached> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
