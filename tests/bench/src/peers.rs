//! Other tunnels, carrying the same ports.

mod chisel;
mod frp;
mod konnectivity;
mod rathole;

pub(crate) use self::{chisel::chisel, frp::frp, konnectivity::konnectivity, rathole::rathole};

use crate::{client::Route, link::way::Way, usage::Named};
use anyhow::{Context, Result};
use lab::{Certificates, Lab, Process, Spec};
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

const READY_WITHIN: Duration = Duration::from_secs(30);
const GRACE: Duration = Duration::from_secs(5);

/// A tunnel that runs.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    /// From the side of the client to that of the cluster.
    pub(crate) hops: Vec<Named>,
    /// To the ports, in the order they were asked for.
    pub(crate) routes: Vec<Route>,
    /// To the port for datagrams, if there was one and it carries them.
    pub(crate) datagrams: Option<SocketAddr>,
    /// Between its two ends.
    pub(crate) way: Option<Way>,
}

/// Where peers run and what they carry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ground<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) certificates: &'a Certificates,
    pub(crate) ports: &'a [SocketAddr],
    /// A port for UDP.
    pub(crate) datagrams: Option<SocketAddr>,
    /// What anything between its two ends takes, one way.
    pub(crate) delay: Duration,
}

impl Ground<'_> {
    fn process(&self, name: &str, binary: &str, args: Vec<String>, health: lab::Health) -> Result<Named> {
        self.program(name, self.lab.parts().path(binary)?, args, health)
    }

    fn program(&self, name: &str, binary: &Path, args: Vec<String>, health: lab::Health) -> Result<Named> {
        let spec = Spec {
            name: name.to_owned(),
            binary: binary.to_owned(),
            args,
            env: std::collections::BTreeMap::new(),
            folder: self.lab.folder().to_owned(),
            health,
            grace: GRACE,
        };
        Ok(Named::new(Arc::new(self.lab.add_process(spec))))
    }

    /// Where a client reaches the server at this port, and what is between them.
    async fn way(&self, port: u16) -> Result<(SocketAddr, Option<Way>)> {
        way(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), self.delay).await
    }

    /// A file in the run folder.
    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.lab.folder().join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

/// Where `target` is reached with that delay, and what makes it; straight without one.
pub(crate) async fn way(target: SocketAddr, delay: Duration) -> Result<(SocketAddr, Option<Way>)> {
    if delay.is_zero() {
        return Ok((target, None));
    }
    let way = Way::start(target, delay).await?;
    Ok((way.address(), Some(way)))
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
