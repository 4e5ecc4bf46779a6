//! From `main` to the exit code.

use std::{future::Future, pin::pin, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use opentelemetry::metrics::MeterProvider as _;
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Args, Common, Context, Health, Options,
    config::{self, Parsed},
    logs,
    server::{self, Routes},
    telemetry::Telemetry,
};

/// Files are read and names looked up on these; more would only add stacks.
const MAX_BLOCKING_THREADS: usize = 8;
/// How long abandoned tasks and blocking calls may hold up the end of the process.
const RUNTIME_TIMEOUT: Duration = Duration::from_millis(500);
const FAILED: u8 = 1;
const BAD_CONFIG: u8 = 2;

/// Runs a process with the arguments and the environment it was started with. The whole of a service's `main`.
///
/// `service` gets its options and its context, and returns when it has finished or `Context::shutdown` is cancelled.
/// Exit code 0: it returned `Ok`; 1: it failed (the error's chain is logged once), or did not stop within
/// `shutdown_timeout`; 2: bad arguments or configuration (said on stderr). A second signal ends the process at once
/// with 128 plus the signal's number.
pub fn run<O, F, Fut>(name: &'static str, version: &'static str, service: F) -> ExitCode
where
    O: Options,
    F: FnOnce(O, Context) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    match config::parse_args::<O>(name, version, std::env::args_os()) {
        Parsed::Run(args) => run_with(name, version, &args, service),
        Parsed::Exit(code) => ExitCode::from(code),
    }
}

/// [`run`] for a process that has read its arguments itself.
pub fn run_with<O, F, Fut>(name: &'static str, version: &'static str, args: &Args, service: F) -> ExitCode
where
    O: Options,
    F: FnOnce(O, Context) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    if args.print_schema {
        config::write_stdout(&format!("{}\n", config::print_schema::<O>()));
        return ExitCode::SUCCESS;
    }
    let loaded = config::load::<O>(args);
    let printed = loaded.and_then(|options| {
        let text = args.print_config.then(|| config::print(&options)).transpose()?;
        Ok((options, text))
    });
    match printed {
        Ok((_, Some(text))) => {
            config::write_stdout(&text);
            ExitCode::SUCCESS
        }
        Ok((options, None)) => execute(name, version, options, service),
        Err(error) => {
            eprintln!("{name}: {:#}", anyhow::Error::from(error));
            ExitCode::from(BAD_CONFIG)
        }
    }
}

/// Runs `service` with options that are complete already.
pub fn execute<O, F, Fut>(name: &'static str, version: &'static str, options: O, service: F) -> ExitCode
where
    O: Options,
    F: FnOnce(O, Context) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    let common = options.common().clone();
    logs::install(&common.logging);
    crate::tls::install_provider();
    let outcome = start(name, version, &common).and_then(|(runtime, telemetry)| {
        let outcome =
            runtime.block_on(supervise(name, version, &common, &telemetry, |context| service(options, context)));
        // In this order: the spans of abandoned tasks end with the runtime, and are then sent with the rest.
        runtime.shutdown_timeout(RUNTIME_TIMEOUT);
        telemetry.shutdown();
        outcome
    });
    match outcome {
        Ok(()) => {
            tracing::info!("stopped");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "{name} failed");
            ExitCode::from(FAILED)
        }
    }
}

fn start(name: &'static str, version: &'static str, common: &Common) -> anyhow::Result<(Runtime, Telemetry)> {
    let telemetry = Telemetry::start(name, version, &common.telemetry)?;
    let mut builder = match common.worker_threads {
        0 | 1 => Builder::new_current_thread(),
        several => {
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(several);
            builder
        }
    };
    let runtime = builder.enable_all().max_blocking_threads(MAX_BLOCKING_THREADS).thread_name(name).build();
    Ok((runtime.context("cannot start the runtime")?, telemetry))
}

async fn supervise<Fut>(
    name: &'static str,
    version: &'static str,
    common: &Common,
    telemetry: &Telemetry,
    service: impl FnOnce(Context) -> Fut,
) -> anyhow::Result<()>
where
    Fut: Future<Output = anyhow::Result<()>>,
{
    let mut signals = Signals::new()?;
    let listen = common.server.listen;
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let address = listener.local_addr().with_context(|| format!("cannot listen on {listen}"))?;
    tracing::info!(%address, version, "{name} serves health and metrics");

    let health = Health::default();
    let context = Context {
        shutdown: CancellationToken::new(),
        health: health.clone(),
        meter: telemetry.metrics.provider.meter(name),
        tracer: telemetry.tracer.clone(),
        name,
        version,
    };
    let shutdown = context.shutdown.clone();
    let routes = Arc::new(Routes { name, version, health: health.clone(), metrics: telemetry.metrics.clone() });
    // Probes go on being answered while the service finishes; the guard ends the server with this function.
    let server_stop = CancellationToken::new();
    let _guard = server_stop.clone().drop_guard();
    let server = tokio::spawn(server::serve(listener, routes, server_stop.clone()));

    let mut service = pin!(service(context));
    let outcome = tokio::select! {
        outcome = &mut service => outcome,
        signal = signals.next() => {
            tracing::info!(signal = signal.name, timeout = %common.shutdown_timeout, "stopping");
            health.stopping();
            shutdown.cancel();
            tokio::select! {
                outcome = tokio::time::timeout(common.shutdown_timeout.get(), &mut service) => outcome
                    .unwrap_or_else(|_| Err(anyhow::anyhow!("did not stop within {}", common.shutdown_timeout))),
                signal = signals.next() => {
                    tracing::warn!(signal = signal.name, "told to stop twice, exiting at once");
                    std::process::exit(signal.exit_code);
                }
            }
        }
    };
    shutdown.cancel();
    server_stop.cancel();
    server.await.context("the health server ended abnormally")?;
    outcome
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

struct Received {
    name: &'static str,
    exit_code: i32,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> Received {
        tokio::select! {
            _ = self.terminate.recv() => Received { name: "SIGTERM", exit_code: 143 },
            _ = self.interrupt.recv() => Received { name: "SIGINT", exit_code: 130 },
        }
    }
}
