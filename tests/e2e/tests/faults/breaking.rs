//! Kill and freeze, under load on both clusters at once.

use anyhow::{Context, Result, ensure};
use e2e::{
    Front, Protocol,
    client::Target,
    load::{Job, Load},
    stage::Stage,
};
use lab::{Process, until};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;

/// From the moment the process runs again (the API server: answers again).
const RESUMES: Duration = Duration::from_secs(15);
/// How long a fault may take to show before the process is started again all the same.
const SHOWS: Duration = Duration::from_secs(2);
/// Longer than the bus and its clients wait for a silent peer, shorter than a link does.
const FROZEN: Duration = Duration::from_secs(4);
/// How long the API server may take to notice that etcd is away.
const MISSED: Duration = Duration::from_secs(10);
const SIZE: u64 = 3 << 20;

const EACH: [&str; 8] = [
    "proxy-executor",
    "gateway-link",
    "nats-server",
    "state-keeper",
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "control-plane",
];
/// Not on the way of a request.
const HARMLESS: [&str; 2] = ["state-keeper", "kube-controller-manager"];
/// How soon these serve again is theirs; what is ours begins when the API server answers.
const KUBERNETES: [&str; 2] = ["etcd", "kube-apiserver"];

pub async fn each_process_killed_and_restarted_under_load(stage: &Stage) -> Result<()> {
    let load = load(stage).await?;
    for name in EACH {
        let processes = of_both(stage, name)?;
        fault(stage, &load, &format!("{name} killed"), HARMLESS.contains(&name), async || {
            for process in &processes {
                process.get().kill().await?;
            }
            let before = load.failures();
            let noticed = until("a failed request", SHOWS, || async {
                ensure!(load.failures() > before, "every request is answered");
                Ok(())
            });
            let _not_every_fault_shows = noticed.await;
            if name == "etcd" {
                without_etcd_the_api_says_the_same_both_ways(stage).await?;
            }
            for process in &processes {
                process.get().start().await?;
            }
            if KUBERNETES.contains(&name) {
                stage.process("kube-apiserver")?.wait_ready(Duration::from_secs(30)).await?;
            }
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// The API server is there: what it can still answer, and how it fails, is what the user sees.
async fn without_etcd_the_api_says_the_same_both_ways(stage: &Stage) -> Result<()> {
    let fronts = [Front::direct(&stage.lab, Protocol::Http2)?, Front::through(&stage.lab, Protocol::Http2)?];
    let answers = async |path: &str| -> Result<(u16, String)> {
        let answer = async |front: &Front| -> Result<(u16, String)> {
            let response = front.get(path).send().await.with_context(|| path.to_owned())?;
            Ok((response.status().as_u16(), response.text().await?))
        };
        let [direct, through] = &fronts;
        let (direct, through) = tokio::try_join!(answer(direct), answer(through))?;
        ensure!(direct == through, "{path}: straight {direct:?}, through the agent {through:?}");
        Ok(direct)
    };
    // It takes the API server a moment to say so.
    until("the API server to miss etcd", MISSED, || async {
        let (status, body) = answers("/readyz/etcd").await?;
        ensure!(status == 500, "{status}: {body}");
        Ok(())
    })
    .await?;
    let (status, body) = answers("/api/v1/namespaces/default/configmaps/faults?resourceVersion=0").await?;
    ensure!(status == 200, "from the API server's cache: {status}: {body}");
    Ok(())
}

pub async fn each_process_frozen_under_load(stage: &Stage) -> Result<()> {
    let load = load(stage).await?;
    for name in ["proxy-executor", "gateway-link", "nats-server", "control-plane"] {
        let processes = of_both(stage, name)?;
        fault(stage, &load, &format!("{name} frozen"), false, async || {
            for process in &processes {
                process.get().freeze()?;
            }
            // The time is the fault itself.
            tokio::time::sleep(FROZEN).await;
            for process in &processes {
                process.get().resume()?;
            }
            Ok(())
        })
        .await?;
    }
    Ok(())
}

enum Either<'a> {
    Lab(Arc<Process>),
    Side(&'a Process),
}

impl Either<'_> {
    fn get(&self) -> &Process {
        match self {
            Self::Lab(process) => process,
            Self::Side(process) => process,
        }
    }
}

/// The process of that name in both clusters.
fn of_both<'a>(stage: &'a Stage, name: &str) -> Result<Vec<Either<'a>>> {
    let mut processes = vec![Either::Lab(stage.process(name)?)];
    let side = stage.side.processes().into_iter().find(|process| process.name() == format!("side-{name}"));
    processes.extend(side.map(Either::Side));
    Ok(processes)
}

pub async fn load(stage: &Stage) -> Result<Load> {
    let (kube, plain) = (stage.kube()?, stage.plain()?);
    let value: String =
        (0..600_000_u32).map(|index| char::from(b'a' + u8::try_from(index % 23).unwrap_or_default())).collect();
    let manifest =
        format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"big"}},"data":{{"v":"{value}"}}}}"#);
    for manifest in [manifest.as_str(), r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"faults"}}"#] {
        stage
            .lab
            .admin()
            .stdout_with_input(&["apply", "--server-side", "--force-conflicts", "-f", "-"], manifest)
            .await?;
    }
    let path = "/api/v1/namespaces/default/configmaps/big".to_owned();
    let body =
        kube.http(Protocol::Http1)?.get(kube.url(&path)).send().await?.error_for_status()?.bytes().await?.to_vec();
    ensure!(body.len() > 600_000, "the object is too small: {}", body.len());
    let mut jobs = Vec::new();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        jobs.push((kube.clone(), protocol, Job::Get { path: path.clone(), body: body.clone() }));
        for path in ["/download", "/sized"] {
            let path = format!("{path}?size={SIZE}");
            jobs.push((plain.clone(), protocol, Job::Download { path, size: SIZE }));
        }
        jobs.push((plain.clone(), protocol, Job::Upload { path: "/upload".to_owned(), size: SIZE }));
    }
    Load::start(jobs, Duration::ZERO)
}

async fn fault(
    stage: &Stage,
    load: &Load,
    what: &str,
    harmless: bool,
    happens: impl AsyncFnOnce() -> Result<()>,
) -> Result<()> {
    load.good_since(Instant::now(), RESUMES).await.with_context(|| format!("before {what}"))?;
    load.report().with_context(|| format!("before {what}"))?;
    let kube = stage.kube()?;
    let watches = [Watch::open(&kube, Protocol::Http1).await?, Watch::open(&kube, Protocol::Http2).await?];
    happens().await.with_context(|| what.to_owned())?;
    let over = Instant::now();
    let resumed = load.good_since(over, RESUMES).await;
    let took = over.elapsed();
    // First what was answered wrongly: it says more.
    let (complete, failed) = load.report().with_context(|| what.to_owned())?;
    resumed.with_context(|| what.to_owned())?;
    stage.lab.wait_ready(RESUMES).await.with_context(|| what.to_owned())?;
    for watch in watches {
        watch.ended_or_alive(stage).await.with_context(|| what.to_owned())?;
    }
    println!("{what}: {complete} answers whole, failures {failed:?}; good again after {took:?}");
    ensure!(!harmless || failed.is_empty(), "{what} should harm no request: {failed:?}");
    Ok(())
}

/// A watch held through a fault.
struct Watch {
    reading: JoinHandle<Result<()>>,
    events: Arc<AtomicU64>,
}

impl Watch {
    async fn open(target: &Target, protocol: Protocol) -> Result<Self> {
        let path = "/api/v1/namespaces/default/configmaps?watch=1&fieldSelector=metadata.name%3Dfaults";
        let mut response = target.http(protocol)?.get(target.url(path)).send().await?.error_for_status()?;
        let events = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&events);
        let reading = tokio::spawn(async move {
            let mut partial = false;
            loop {
                match response.chunk().await {
                    Ok(Some(piece)) => {
                        count.fetch_add(piece.iter().filter(|byte| **byte == b'\n').count() as u64, Relaxed);
                        partial = piece.last() != Some(&b'\n');
                    }
                    Ok(None) if partial => anyhow::bail!("a watch ends cleanly in the middle of an event"),
                    Ok(None) | Err(_) => return Ok(()),
                }
            }
        });
        let watch = Self { reading, events };
        until("the watch's first event", RESUMES, || async {
            ensure!(watch.events.load(Relaxed) > 0, "none");
            Ok(())
        })
        .await?;
        Ok(watch)
    }

    /// What must not be: a watch that is still open and shows nothing any more.
    async fn ended_or_alive(self, stage: &Stage) -> Result<()> {
        let before = self.events.load(Relaxed);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos();
        let change = format!("at={now}");
        stage.lab.admin().stdout(&["annotate", "configmap", "faults", "--overwrite", &change]).await?;
        until("the watch to end or to show the change", RESUMES, || async {
            ensure!(self.reading.is_finished() || self.events.load(Relaxed) > before, "open and silent");
            Ok(())
        })
        .await?;
        if self.reading.is_finished() {
            return self.reading.await?;
        }
        self.reading.abort();
        Ok(())
    }
}
