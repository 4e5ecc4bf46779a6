//! One lab with a second cluster for all tests of a file. The tests take turns: most of them kill or freeze what others would use.

use crate::{
    Protocol,
    backend::Backend,
    client::Target,
    collector::Collector,
    side::{self, Side},
    suite::{Turns, run_in},
};
use anyhow::{Context, Result, ensure};
use futures::future::LocalBoxFuture;
use lab::{Lab, Options, Process, until};
use std::{collections::BTreeMap, process::ExitCode, sync::Arc, time::Duration};

const READY_WITHIN: Duration = Duration::from_secs(40);

#[derive(Debug)]
pub struct Stage {
    pub lab: Lab,
    pub side: Side,
    pub backend: Backend,
    /// Present when the services were told to trace.
    pub collector: Option<Collector>,
}

/// A test: its name, and what it does on the stage.
pub type Scene = (&'static str, for<'a> fn(&'a Stage) -> Played<'a>);

/// A test under way.
pub type Played<'a> = LocalBoxFuture<'a, Result<()>>;

/// The list of tests: async functions that take `&Stage` and give `anyhow::Result<()>`.
#[macro_export]
macro_rules! scenes {
    ($($test:ident),* $(,)?) => {
        vec![$({
            fn played(stage: &$crate::stage::Stage) -> $crate::stage::Played<'_> {
                Box::pin($test(stage))
            }
            (stringify!($test), played as for<'a> fn(&'a $crate::stage::Stage) -> $crate::stage::Played<'a>)
        }),*]
    };
}

/// Runs the tests as `cargo test` asks for, each when everything on the stage works and alone. `traced` services send their spans to
/// [`Stage::collector`].
#[must_use]
pub fn run(traced: bool, scenes: Vec<Scene>) -> ExitCode {
    let tests = scenes.into_iter().map(|(name, scene)| {
        let test = move |stage: Arc<Stage>| async move {
            stage.settled().await.context("the stage is not as the test needs it")?;
            scene(&stage).await
        };
        (name, test)
    });
    run_in(Turns::OneByOne, move || Stage::start(traced), Stage::stop, tests)
}

impl Stage {
    async fn start(traced: bool) -> Result<Self> {
        let collector = if traced { Some(Collector::start().await?) } else { None };
        let mut env = BTreeMap::new();
        let mut values = Vec::new();
        if let Some(collector) = &collector {
            values.push(format!("agent.telemetry.otlpEndpoint={}", collector.url()));
            env.insert("PIPEOPS_TELEMETRY_OTLP_ENDPOINT".to_owned(), collector.url());
            // A trace begun by nobody is not what these tests look at.
            env.insert("PIPEOPS_TELEMETRY_SAMPLE_RATIO".to_owned(), "0".to_owned());
        }
        let lab = Lab::start(Options {
            control_plane_env: env.clone(),
            values,
            api_server_traces: collector.as_ref().map(Collector::grpc),
            ..Options::default()
        })
        .await?;
        let backend = Backend::start().await?;
        let side = Side::start(&lab, backend.address, &env).await?;
        Ok(Self { lab, side, backend, collector })
    }

    async fn stop(self) -> Result<()> {
        for process in self.side.processes() {
            process.stop().await?;
        }
        self.lab.stop().await
    }

    /// The lab's own cluster.
    ///
    /// # Errors
    /// As [`Target::new`].
    pub fn kube(&self) -> Result<Target> {
        Target::new(&self.lab, self.lab.cluster())
    }

    /// The cluster whose API server is the [`Backend`].
    ///
    /// # Errors
    /// As [`Target::new`].
    pub fn plain(&self) -> Result<Target> {
        Target::new(&self.lab, side::CLUSTER)
    }

    /// A process of the lab.
    ///
    /// # Errors
    /// As [`Lab::process`].
    pub fn process(&self, name: &str) -> Result<Arc<Process>> {
        self.lab.process(name)
    }

    /// Our own processes: those of both agents, and the control plane.
    ///
    /// # Errors
    /// When the lab has no such process.
    pub fn ours(&self) -> Result<Vec<Arc<Process>>> {
        ["control-plane", "gateway-link", "proxy-executor", "state-keeper"]
            .map(|name| self.process(name))
            .into_iter()
            .collect()
    }

    /// Waits until both clusters answer.
    ///
    /// # Errors
    /// When they do not.
    pub async fn settled(&self) -> Result<()> {
        self.lab.wait_ready(READY_WITHIN).await?;
        for process in self.side.processes() {
            process.wait_ready(READY_WITHIN).await?;
        }
        self.answers(READY_WITHIN).await
    }

    /// Waits until a request to each cluster is answered.
    ///
    /// # Errors
    /// When one is not within `limit`.
    pub async fn answers(&self, limit: Duration) -> Result<()> {
        for (target, path) in [(self.kube()?, "/version"), (self.plain()?, "/small")] {
            let client = target.http(Protocol::Http1)?;
            until(&format!("an answer of {path}"), limit, || async {
                let response = client.get(target.url(path)).timeout(Duration::from_secs(5)).send().await?;
                let status = response.status();
                let body = response.text().await?;
                ensure!(status == 200, "{status}: {body}");
                anyhow::Ok(())
            })
            .await?;
        }
        Ok(())
    }
}
