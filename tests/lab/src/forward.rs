//! `kubectl port-forward`.

use crate::{lines::Lines, run::Tool};
use anyhow::{Context, Result};
use std::time::Duration;
use tokio::net::TcpStream;

const STARTS_WITHIN: Duration = Duration::from_secs(60);

/// A running `kubectl port-forward`.
#[derive(Debug)]
pub struct Forward {
    /// What it prints.
    pub lines: Lines,
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
        Ok(Self { port: port.with_context(|| format!("kubectl says {said:?}"))?, lines })
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
}
