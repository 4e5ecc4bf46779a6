//! Who may go to which cluster.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use protocol::Status;

use super::{Cluster, Clusters};
use crate::auth::{Grant, TokenRecord};

impl Clusters {
    /// The cluster that a user asks for, by name or by id; or what to answer.
    ///
    /// A token that is limited to some clusters is told of all others alike that it does not reach them (403), so that it
    /// shows nothing of what there is. Only of a cluster it does reach does it hear that it is not known (404).
    pub fn reach(&self, token: &TokenRecord, cluster: &str) -> Result<Arc<Cluster>, Box<Status>> {
        if let Grant::Agent { .. } = token.grant {
            return Err(Box::new(Status::forbidden(
                "this is an agent's token: it registers a cluster, and reaches none; a user needs one made with --user",
            )));
        }
        let found = self.find(cluster);
        let reaches = match &found {
            Some(found) => token.may_reach(&found.record().name),
            None => token.may_reach(cluster),
        };
        // Only words of the request's own: a cluster asked for by its id must not be named in return.
        match found {
            _ if !reaches => Err(Box::new(Status::forbidden(format!("this token does not reach cluster {cluster:?}")))),
            Some(found) => Ok(found),
            None => Err(Box::new(Status::not_found(format!("cluster {cluster:?} is not known to this control plane")))),
        }
    }
}
