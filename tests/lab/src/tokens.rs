//! ServiceAccount tokens in pods' files: asked for by TokenRequest and renewed before they expire, as a kubelet does.

use crate::{folders::write_atomically, run::Tool};
use anyhow::{Context, Result};
use std::{
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// After a failed renewal.
const RETRY: Duration = Duration::from_secs(5);

/// A token file.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) service_account: String,
    pub(crate) namespace: String,
    pub(crate) audience: Option<String>,
    pub(crate) lifetime: Duration,
    pub(crate) file: PathBuf,
}

impl Token {
    /// A new token in the file; readers see the old one or the new one.
    async fn renew(&self, kubectl: &Tool) -> Result<()> {
        let duration = format!("--duration={}s", self.lifetime.as_secs());
        let mut args = vec!["create", "token", &self.service_account, "-n", &self.namespace, &duration];
        let audience = self.audience.as_ref().map(|audience| format!("--audience={audience}"));
        args.extend(audience.as_deref());
        let token = kubectl.stdout(&args).await?;
        write_atomically(&self.file, token.trim().as_bytes(), 0o600)
    }

    /// As the kubelet: when four fifths of its life are over.
    fn renew_after(&self) -> Duration {
        self.lifetime * 4 / 5
    }
}

/// Renews all the tokens, at once.
pub(crate) async fn renew(tokens: &[Token], kubectl: &Tool) -> Result<()> {
    let mut tasks = JoinSet::new();
    for token in tokens.iter().cloned() {
        let kubectl = kubectl.clone();
        tasks.spawn(async move {
            let what = || format!("cannot get a token of ServiceAccount {}", token.service_account);
            token.renew(&kubectl).await.with_context(what)
        });
    }
    while let Some(result) = tasks.join_next().await {
        result.context("asking for a token ended early")??;
    }
    Ok(())
}

/// Keeps the files fresh until it is dropped. It has a thread of its own, because a lab outlives the runtimes of the tests that share it.
#[derive(Debug)]
pub(crate) struct Refresher {
    _stop: mpsc::SyncSender<()>,
}

impl Refresher {
    /// Takes tokens that were renewed just now.
    pub(crate) fn start(tokens: Vec<Token>, kubectl: Tool) -> Result<Self> {
        let (stop, stopped) = mpsc::sync_channel(0);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot make a runtime for token renewal")?;
        let tokens: Arc<[Token]> = tokens.into();
        let mut due: Vec<(Instant, usize)> =
            tokens.iter().enumerate().map(|(at, token)| (Instant::now() + token.renew_after(), at)).collect();
        std::thread::Builder::new()
            .name("lab-tokens".to_owned())
            .spawn(move || {
                loop {
                    due.sort_unstable_by_key(|(when, _)| std::cmp::Reverse(*when));
                    // With nothing to renew there is still the end to wait for.
                    let next = due
                        .last()
                        .map_or(Duration::from_secs(3600), |(when, _)| when.saturating_duration_since(Instant::now()));
                    if stopped.recv_timeout(next) != Err(RecvTimeoutError::Timeout) {
                        return;
                    }
                    let Some((_, at)) = due.pop() else { continue };
                    let Some(token) = tokens.get(at) else { continue };
                    let after = match runtime.block_on(token.renew(&kubectl)) {
                        Ok(()) => token.renew_after(),
                        Err(error) => {
                            eprintln!("lab: {error:#}; trying again in {} s", RETRY.as_secs());
                            RETRY
                        }
                    };
                    due.push((Instant::now() + after, at));
                }
            })
            .context("cannot start the thread that renews tokens")?;
        Ok(Self { _stop: stop })
    }
}
