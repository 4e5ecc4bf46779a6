//! `kubectl port-forward`.

use crate::{lines::Lines, run::Tool};
use anyhow::{Context, Result};
use std::{process::ExitStatus, time::Duration};
use tokio::{net::TcpStream, task::JoinSet};

const STARTS_WITHIN: Duration = Duration::from_secs(60);

/// A running `kubectl port-forward`.
#[derive(Debug)]
pub struct Forward {
    /// Reads the line that kubectl prints for each connection: it would stop at a full pipe.
    rest: JoinSet<std::io::Result<(ExitStatus, String)>>,
    port: u16,
}

impl Forward {
    /// Forwards a free local port to a pod's.
    ///
    /// # Errors
    /// When kubectl does not say that it does.
    pub async fn to(tool: &Tool, namespace: &str, pod: &str, port: u16) -> Result<Self> {
        Self::with(&[], tool, namespace, pod, port).await
    }

    /// As [`Forward::to`], with more flags for kubectl.
    ///
    /// # Errors
    /// As [`Forward::to`].
    pub async fn with(flags: &[&str], tool: &Tool, namespace: &str, pod: &str, port: u16) -> Result<Self> {
        let (pod, port) = (format!("pod/{pod}"), format!(":{port}"));
        let forward = ["port-forward", "-n", namespace, &pod, &port, "--address=127.0.0.1"];
        let mut lines = Lines::of(tool, &[&forward, flags].concat())?;
        let said = lines.next(STARTS_WITHIN).await?;
        let port =
            said.strip_prefix("Forwarding from 127.0.0.1:").and_then(|rest| rest.split(' ').next()?.parse().ok());
        let port = port.with_context(|| format!("kubectl says {said:?}"))?;
        let mut rest = JoinSet::new();
        rest.spawn(lines.rest());
        Ok(Self { rest, port })
    }

    /// The local port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A connection to the pod.
    ///
    /// # Errors
    /// When kubectl does not take it.
    pub async fn connect(&self) -> Result<TcpStream> {
        Ok(TcpStream::connect(("127.0.0.1", self.port)).await?)
    }

    /// Waits for its end; gives its stderr too.
    ///
    /// # Errors
    /// When it does not end within `limit`.
    pub async fn end(mut self, limit: Duration) -> Result<(ExitStatus, String)> {
        let rest = tokio::time::timeout(limit, self.rest.join_next()).await.context("kubectl does not end")?;
        Ok(rest.context("nobody reads what kubectl prints")???)
    }
}
