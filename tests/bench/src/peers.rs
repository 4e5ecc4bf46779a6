//! Other tunnels, carrying the same ports.

mod chisel;
mod konnectivity;

pub(crate) use self::{chisel::chisel, konnectivity::konnectivity};

use crate::{client::Route, usage::Named};
use anyhow::Result;
use lab::{Certificates, Lab, Process, Spec};
use std::{net::SocketAddr, sync::Arc, time::Duration};

const READY_WITHIN: Duration = Duration::from_secs(30);
const GRACE: Duration = Duration::from_secs(5);

/// A tunnel that runs.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    /// From the side of the client to that of the cluster.
    pub(crate) hops: Vec<Named>,
    /// To the ports, in the order they were asked for.
    pub(crate) routes: Vec<Route>,
}

/// Where peers run and what they carry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ground<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) certificates: &'a Certificates,
    pub(crate) ports: &'a [SocketAddr],
}

impl Ground<'_> {
    fn process(&self, name: &str, binary: &str, args: Vec<String>, health: lab::Health) -> Result<Named> {
        let spec = Spec {
            name: name.to_owned(),
            binary: self.lab.parts().path(binary)?.to_owned(),
            args,
            env: std::collections::BTreeMap::new(),
            folder: self.lab.folder().to_owned(),
            health,
            grace: GRACE,
        };
        Ok(Named::new(Arc::new(self.lab.add_process(spec))))
    }
}

/// Starts all, then waits for all: some are ready only together.
async fn start(processes: &[Named]) -> Result<()> {
    for named in processes {
        named.process.start().await?;
    }
    ready(processes.iter().map(|named| named.process.as_ref())).await
}

/// Waits until each is ready.
pub(crate) async fn ready(processes: impl IntoIterator<Item = &Process>) -> Result<()> {
    for process in processes {
        process.wait_ready(READY_WITHIN).await?;
    }
    Ok(())
}
