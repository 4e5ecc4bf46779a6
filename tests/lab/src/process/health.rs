//! How to see from outside that a process works.

use anyhow::{Context, Result, bail};
use std::{net::SocketAddr, time::Duration};
use tokio::net::TcpStream;

const ANSWER_WITHIN: Duration = Duration::from_secs(2);
const BODY_SHOWN: usize = 600;

/// A process's sign of life.
#[derive(Clone, Debug)]
pub enum Health {
    /// It runs.
    Running,
    /// It takes TCP connections.
    Tcp(SocketAddr),
    /// It answers GET with 2xx. The certificate of an `https` URL is not checked: this is not the place that proves it.
    Http(String),
}

impl Health {
    /// One look.
    ///
    /// # Errors
    /// What was wrong.
    pub async fn look(&self) -> Result<()> {
        match self {
            Self::Running => Ok(()),
            Self::Tcp(address) => {
                tokio::time::timeout(ANSWER_WITHIN, TcpStream::connect(address))
                    .await
                    .with_context(|| format!("{address} does not answer"))?
                    .with_context(|| format!("cannot connect to {address}"))?;
                Ok(())
            }
            Self::Http(url) => {
                // No pool: the tests' runtimes come and go, and a pooled connection dies with the runtime that opened it.
                let client = reqwest::Client::builder()
                    .danger_accept_invalid_certs(true)
                    .pool_max_idle_per_host(0)
                    .no_proxy()
                    .timeout(ANSWER_WITHIN)
                    .build()?;
                let response = client.get(url).send().await?;
                let status = response.status();
                if status.is_success() {
                    return Ok(());
                }
                let body: String = response.text().await.unwrap_or_default().chars().take(BODY_SHOWN).collect();
                bail!("{url} answers {status}: {}", body.trim())
            }
        }
    }
}
