//! A service that does what it reads from standard input, one command a line: what the tests drive over its real
//! surface.

use std::{collections::BTreeMap, io::BufRead as _, process::ExitCode};

use anyhow::{Context as _, anyhow};
use protocol::{Secret, TraceParent};
use runtime::{ByteSize, Common, Context, Duration, Options, SecretSchema, SpanKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct Driven {
    #[serde(flatten)]
    common: Common,
    /// The other side.
    peer: Peer,
    /// How much is kept in memory.
    buffer: ByteSize,
    /// Labels of this instance.
    labels: BTreeMap<String, String>,
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct Peer {
    /// Where it is reached, such as "https://peer:8443".
    url: Option<String>,
    /// What it knows us by.
    #[schemars(with = "Option<SecretSchema>")]
    token: Option<Secret>,
    /// How long an answer may take.
    timeout: Duration,
    /// Names it may go by.
    names: Vec<String>,
    /// How it is reached.
    mode: Mode,
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Mode {
    /// Straight.
    #[default]
    Direct,
    /// Round some corners.
    Relayed,
}

impl Default for Driven {
    fn default() -> Self {
        let mut common = Common::default();
        common.server.listen = ([127, 0, 0, 1], 0).into();
        Self { common, peer: Peer::default(), buffer: ByteSize::mib(4), labels: BTreeMap::new() }
    }
}

impl Options for Driven {
    const ENV: &'static [(&'static str, &'static str)] = &[("PIPEOPS_TOKEN", "peer.token")];

    fn common(&self) -> &Common {
        &self.common
    }
}

#[expect(clippy::panic, reason = "it is what the test asks for")]
async fn fall_over() {
    panic!("asked to panic");
}

async fn serve(_: Driven, context: Context) -> anyhow::Result<()> {
    let (sender, mut commands) = mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    let condition = context.health.condition("driver");
    let counter = context.meter.u64_counter("driven_commands").with_description("Commands carried out").build();
    loop {
        let line = tokio::select! {
            () = context.shutdown.cancelled() => return Ok(()),
            line = commands.recv() => line,
        };
        let Some(line) = line else {
            context.shutdown.cancelled().await;
            return Ok(());
        };
        let (command, rest) = line.split_once(' ').unwrap_or((&line, ""));
        match command {
            "ready" => condition.ready(),
            "not-ready" => condition.not_ready(rest),
            "fail" => return Err(anyhow!("the innermost reason").context(rest.to_owned()).context("cannot serve")),
            "finish" => return Ok(()),
            // The task's end is all there is to wait for.
            "panic" => drop(tokio::spawn(fall_over()).await),
            // From here on SIGTERM is not heeded.
            "hang" => {
                tracing::info!("hanging");
                std::future::pending::<()>().await;
            }
            "span" => {
                let parent = (!rest.is_empty()).then(|| TraceParent::parse(rest)).transpose()?;
                let mut span = context.tracer.start("driven.span", SpanKind::Server, parent.as_ref());
                span.set("driven.bytes", 42);
                span.fail("as asked");
                let mut child = context.tracer.start("driven.child", SpanKind::Client, span.context().as_ref());
                child.set("driven.peer", "somewhere");
                println!("{}", child.context().map_or_else(|| "none".to_owned(), |context| context.to_string()));
            }
            other => return Err(anyhow!("no such command: {other:?}")).context("cannot serve"),
        }
        counter.add(1, &[]);
    }
}

fn main() -> ExitCode {
    runtime::run("driven", env!("CARGO_PKG_VERSION"), serve)
}
