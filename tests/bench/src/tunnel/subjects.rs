//! The ways to the backends that are compared.

use super::{
    Scale,
    agent::{Agent, Ports},
    datagrams::Echo,
};
use crate::{
    backend::Backend,
    client::{Connection, Route, Target},
    link::{ends::End, load, way::Way},
    peers::{self, Ground, Peer, way},
    usage::Named,
};
use anyhow::{Context, Result};
use lab::{Certificates, Lab, Progress, until};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{net::TcpListener, task::JoinSet};

const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// What all ways lead to, each in a thread of its own.
pub(super) struct Backends {
    bulk: End,
    http: Backend,
    echo: Echo,
    taken: Arc<AtomicU64>,
}

/// A way to the backends.
pub(super) struct Subject {
    pub(super) name: &'static str,
    pub(super) bulk: SocketAddr,
    pub(super) http: Target,
    pub(super) datagrams: SocketAddr,
    /// The processes between client and backend; none on the direct way.
    pub(super) hops: Vec<Named>,
    /// What makes it long.
    pub(super) _ways: Vec<Way>,
}

/// All of them.
pub(super) struct Subjects {
    all: Vec<Subject>,
    agent: Agent,
    /// Of the direct way.
    _echo: Echo,
}

impl Backends {
    pub(super) async fn start() -> Result<Self> {
        let taken = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&taken);
        let serve = async move |listener: TcpListener| {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let taken = Arc::clone(&counted);
                connections.spawn(async move {
                    tcp.set_nodelay(true)?;
                    load::serve(tcp, &taken).await
                });
                // It ends when the other end has had enough.
                while connections.try_join_next().is_some() {}
            }
        };
        Ok(Self {
            bulk: End::listen("bulk", serve).await?,
            http: Backend::start().context("cannot start the backend for requests")?,
            echo: Echo::start(Duration::ZERO).await?,
            taken,
        })
    }

    pub(super) fn bulk(&self) -> SocketAddr {
        self.bulk.address()
    }

    pub(super) fn http(&self) -> SocketAddr {
        self.http.address
    }

    pub(super) fn datagrams(&self) -> SocketAddr {
        self.echo.address()
    }

    /// How many bytes have come in bulk.
    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Relaxed)
    }
}

impl Subjects {
    /// Starts them, with `rtt` between the two ends of each.
    pub(super) async fn start(
        lab: &Lab,
        backends: &Backends,
        ports: &Ports,
        rtt: Duration,
        scale: Scale,
        progress: &Progress,
    ) -> Result<Self> {
        let delay = rtt / 2;
        let (bulk, to_bulk) = way(backends.bulk(), delay).await?;
        let (http, to_http) = way(backends.http(), delay).await?;
        let echo = Echo::start(rtt).await?;
        let direct = Subject {
            name: "direct",
            bulk,
            http: Target::plain("direct", Route::Tcp(http)),
            datagrams: echo.address(),
            hops: Vec::new(),
            _ways: to_bulk.into_iter().chain(to_http).collect(),
        };
        let agent = Agent::start(lab, delay).await?;
        let certificates = Certificates::create(&lab.folder().join(format!("peers-{}", rtt.as_millis())))?;
        let carried = [backends.bulk(), backends.http()];
        let datagrams = Some(backends.datagrams());
        let ground = Ground { lab, certificates: &certificates, ports: &carried, datagrams, delay };
        let mut peers = vec![peers::chisel(ground).await?, peers::frp(ground).await?];
        if scale.every_peer {
            peers.push(peers::rathole(ground, progress).await?);
        }
        let mut all = vec![direct, ports.subject(lab, &agent)?];
        for peer in peers {
            all.push(Subject::through(peer)?);
        }
        for subject in &all {
            subject.answers().await?;
        }
        Ok(Self { all, agent, _echo: echo })
    }

    pub(super) fn all(&self) -> &[Subject] {
        &self.all
    }

    /// Ends them; the next ones have the same names.
    pub(super) async fn stop(self) -> Result<()> {
        let hops = self.all.iter().filter(|subject| subject.name != "pipeops").flat_map(|subject| &subject.hops);
        for hop in hops {
            hop.process.kill().await?;
        }
        self.agent.stop().await
    }
}

impl Subject {
    fn through(Peer { name, hops, routes, datagrams, way }: Peer) -> Result<Self> {
        let [Route::Tcp(bulk), http] = <[Route; 2]>::try_from(routes).ok().context("a peer carries two ports")? else {
            anyhow::bail!("{name} has no port to connect to");
        };
        let datagrams = datagrams.with_context(|| format!("{name} carries no datagrams"))?;
        let ways = way.into_iter().collect();
        Ok(Self { name, bulk, http: Target::plain(name, http), datagrams, hops, _ways: ways })
    }

    /// Waits until a GET is answered.
    async fn answers(&self) -> Result<()> {
        until(&format!("{} to answer", self.name), ANSWERS_WITHIN, || async {
            Connection::open(&self.http).await?.fetch(&self.http.get("/")).await
        })
        .await?;
        Ok(())
    }
}
