//! What goes over the streams.

use super::{
    Scale,
    ends::{End, Open, Stream, Thread},
    rows::Measured,
};
use crate::load::Latencies;
use anyhow::{Context, Result};
use futures::future::BoxFuture;
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::oneshot,
    task::JoinSet,
};

/// What a stream's first byte asks for.
pub(super) const SEND: u8 = 0;
const TAKE: u8 = 1;
pub(super) const ANSWER: u8 = 2;

/// Of a typical small GET.
pub(super) const REQUEST: usize = 500;
pub(super) const RESPONSE: usize = 1500;
const PIECE: usize = 64 * 1024;
/// Between two small exchanges.
const PAUSE: Duration = Duration::from_millis(2);

/// How many streams do what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// From the agent.
    Up(usize),
    /// To the agent.
    Down(usize),
    /// From the agent, with small exchanges on one more.
    Beside(usize),
}

/// What the control plane's end has seen so far.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) bytes: AtomicU64,
    exchanges: Mutex<Latencies>,
}

impl Seen {
    /// The small exchanges since the last call.
    pub(crate) fn take_exchanges(&self) -> Latencies {
        std::mem::take(&mut *self.exchanges.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The agent's side of a stream. Counts in `taken` what it is sent in bulk.
pub(crate) async fn serve(mut stream: impl Stream, taken: &AtomicU64) -> Result<()> {
    match stream.read_u8().await? {
        SEND => {
            let piece = vec![0; PIECE];
            loop {
                stream.write_all(&piece).await?;
            }
        }
        TAKE => {
            let mut piece = vec![0; PIECE];
            loop {
                match stream.read(&mut piece).await? {
                    0 => return Ok(()),
                    n => taken.fetch_add(n as u64, Relaxed),
                };
            }
        }
        _ => loop {
            stream.read_exact(&mut [0; REQUEST]).await?;
            stream.write_all(&[1; RESPONSE]).await?;
        },
    }
}

/// Dials and runs `load` in a thread for the control plane's end, and measures its window. `taken` is what the agent counts.
pub(super) async fn run<F>(
    load: Load,
    scale: Scale,
    agent: &End,
    taken: &AtomicU64,
    dial: impl FnOnce() -> F + Send + 'static,
) -> Result<Measured>
where
    F: Future<Output = Result<(Open, BoxFuture<'static, ()>)>>,
{
    let seen = Arc::new(Seen::default());
    let seer = Arc::clone(&seen);
    let (failed, failure) = oneshot::channel();
    let work = async move || {
        let Err(error) = drive(load, dial, &seer).await else { return };
        // Nobody waits for it after the window.
        let _ended = failed.send(error);
    };
    let control_plane = Thread::start("control-plane", work).await?;
    let window = async {
        tokio::time::sleep(scale.warm_up).await;
        let (begun, cpu) = (Instant::now(), (control_plane.cpu_time()?, agent.cpu_time()?));
        let before = (seen.bytes.load(Relaxed), taken.load(Relaxed));
        drop(seen.take_exchanges());
        tokio::time::sleep(scale.window).await;
        let exchanges = seen.take_exchanges();
        let time = begun.elapsed();
        let bytes = match load {
            Load::Down(_) => taken.load(Relaxed) - before.1,
            Load::Up(_) | Load::Beside(_) => seen.bytes.load(Relaxed) - before.0,
        };
        let used = (control_plane.cpu_time()?, agent.cpu_time()?);
        Ok(Measured {
            bytes,
            time,
            exchanges,
            control_plane: used.0.saturating_sub(cpu.0),
            agent: used.1.saturating_sub(cpu.1),
        })
    };
    tokio::select! {
        measured = window => measured,
        Ok(error) = failure => Err(error.context("the control plane's end")),
    }
}

/// Runs until a stream fails.
pub(crate) async fn drive<F>(load: Load, dial: impl FnOnce() -> F, seen: &Arc<Seen>) -> Result<()>
where
    F: Future<Output = Result<(Open, BoxFuture<'static, ()>)>>,
{
    let (open, link) = dial().await.context("cannot connect")?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        link.await;
        anyhow::bail!("the link has ended")
    });
    // Before the bulk, so that its place in line is not the last by accident.
    if matches!(load, Load::Beside(_)) {
        tasks.spawn(small(open().await?, Arc::clone(seen)));
    }
    let (Load::Up(streams) | Load::Down(streams) | Load::Beside(streams)) = load;
    for _ in 0..streams {
        let stream = open().await?;
        let seen = Arc::clone(seen);
        tasks.spawn(async move {
            match load {
                Load::Down(_) => push(stream).await,
                Load::Up(_) | Load::Beside(_) => pull(stream, &seen).await,
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.context("a stream panicked")??;
    }
    Ok(())
}

async fn pull(mut stream: Box<dyn Stream>, seen: &Seen) -> Result<()> {
    stream.write_all(&[SEND]).await?;
    let mut piece = vec![0; PIECE];
    loop {
        let n = stream.read(&mut piece).await?;
        anyhow::ensure!(n > 0, "the agent's end ended a stream");
        seen.bytes.fetch_add(n as u64, Relaxed);
    }
}

async fn push(mut stream: Box<dyn Stream>) -> Result<()> {
    stream.write_all(&[TAKE]).await?;
    let piece = vec![0; PIECE];
    loop {
        stream.write_all(&piece).await?;
    }
}

async fn small(mut stream: Box<dyn Stream>, seen: Arc<Seen>) -> Result<()> {
    stream.write_all(&[ANSWER]).await?;
    loop {
        let begun = Instant::now();
        stream.write_all(&[1; REQUEST]).await?;
        stream.read_exact(&mut [0; RESPONSE]).await?;
        seen.exchanges.lock().unwrap_or_else(PoisonError::into_inner).add(begun.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
}
