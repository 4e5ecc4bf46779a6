//! Reading and writing one object of the API server, with a deadline, and errors in our terms.

use std::error::Error as _;
use std::time::Duration;

use kube::api::PostParams;
use kube::{Api, ResourceExt};

use crate::access::Access;
use crate::storage::{Object, StorageError};

/// The objects of one namespace.
#[derive(Debug)]
pub(crate) struct Objects {
    access: Access,
    timeout: Duration,
}

impl Objects {
    pub fn new(access: Access, timeout: Duration) -> Self {
        Self { access, timeout }
    }

    pub fn namespace(&self) -> &str {
        self.access.namespace()
    }

    /// The object of that name; none when there is none.
    pub async fn get<K: Object>(&self, name: &str) -> Result<Option<K>, StorageError> {
        self.within("read", name, self.api::<K>()?.get_opt(name)).await
    }

    /// Creates `object` when it was never stored; else replaces exactly the version that it was read as.
    pub async fn save<K: Object>(&self, object: &K) -> Result<K, StorageError> {
        let api = self.api::<K>()?;
        let name = object.name_any();
        let parameters = PostParams::default();
        if object.resource_version().is_some() {
            self.within("update", &name, api.replace(&name, &parameters, object)).await
        } else {
            self.within("create", &name, api.create(&parameters, object)).await
        }
    }

    fn api<K: Object>(&self) -> Result<Api<K>, StorageError> {
        let client = self.access.client().map_err(|e| StorageError::Unavailable(e.to_string()))?;
        Ok(Api::namespaced(client, self.access.namespace()))
    }

    async fn within<T>(
        &self,
        verb: &str,
        name: &str,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, StorageError> {
        let place = || format!("cannot {verb} {}/{name}", self.namespace());
        let Ok(outcome) = tokio::time::timeout(self.timeout, request).await else {
            let waited = self.timeout.as_millis();
            return Err(StorageError::Unavailable(format!(
                "{}: no answer from the API server within {waited} ms",
                place()
            )));
        };
        outcome.map_err(|error| match &error {
            kube::Error::Api(status) if status.code == 409 || (status.code == 404 && verb == "update") => {
                StorageError::Conflict
            }
            kube::Error::Api(status) => {
                if status.code == 401 {
                    self.access.forget();
                }
                StorageError::Unavailable(format!("{}: {}", place(), describe(&error)))
            }
            _ => StorageError::Unavailable(format!("{}: {}", place(), describe(&error))),
        })
    }
}

/// The error for people, each cause once. kube's own text repeats its causes and dumps whole objects.
pub(crate) fn describe(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => {
            format!("the API server answered {} {}: {}", status.code, status.reason, status.message)
        }
        kube::Error::Service(cause) => chain("the API server cannot be reached", Some(cause.as_ref())),
        kube::Error::HyperError(cause) => chain("the API server cannot be reached", Some(cause)),
        // Its text may quote the body, and that is the Secret.
        kube::Error::SerdeError(_) => "the API server's answer cannot be read".into(),
        other => chain(&other.to_string(), other.source().and_then(std::error::Error::source)),
    }
}

fn chain(what: &str, cause: Option<&(dyn std::error::Error + 'static)>) -> String {
    let mut text = what.to_owned();
    let mut next = cause;
    while let Some(cause) = next {
        let part = cause.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        next = cause.source();
    }
    text
}
