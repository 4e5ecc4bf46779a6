//! Two replicas of what a request passes: each is restarted in turn, as a rolling update does it, and one is killed.

use anyhow::{Context, Result, ensure};
use e2e::{
    Protocol, Turns, cases,
    client::Target,
    load::{Job, Load},
};
use lab::{Lab, Options};
use serde_json::Value;
use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{task::JoinSet, time::timeout};

const SERVICES: [&str; 2] = ["gateway-link", "proxy-executor"];
const ROUNDS: usize = 2;
/// With these, 200 requests/s where the machine is fast enough.
const WORKERS: usize = 20;
const EVERY: Duration = Duration::from_millis(100);
/// Less than this many requests/s are not the load that was meant.
const ENOUGH: f64 = 150.0;
/// That the load has gone on for a while: so many requests since the last report.
const SOME: u64 = 100;
const SOON: Duration = Duration::from_secs(60);
const RESUMES: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let replicas = SERVICES.map(|service| (service.to_owned(), 2)).into();
    let cases = cases![
        no_request_fails_while_each_is_replaced,
        watches_lose_nothing_while_links_are_replaced,
        one_that_is_killed_costs_what_it_carried,
        a_control_plane_that_is_replaced_costs_only_what_finds_it_away,
    ];
    e2e::run(Options { replicas, ..Options::default() }, Turns::OneByOne, cases)
}

/// Reads and, since those are sent again when a connection fails, requests that are not.
async fn load(lab: &Lab) -> Result<Load> {
    let target = Target::new(lab, lab.cluster())?;
    let path = "/api/v1/namespaces/default/serviceaccounts/default".to_owned();
    let answer = target.http(Protocol::Http1)?.get(target.url(&path)).send().await?.error_for_status()?.bytes().await?;
    let read = Job::Get { path, body: answer.to_vec() };
    let ask = Job::Post {
        path: "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews".to_owned(),
        body: r#"{"kind":"SelfSubjectAccessReview","apiVersion":"authorization.k8s.io/v1","spec":{"resourceAttributes":{"verb":"get","resource":"pods"}}}"#.to_owned(),
        answer: r#""allowed":true"#,
    };
    let jobs =
        [Protocol::Http1, Protocol::Http2].into_iter().flat_map(|protocol| [(protocol, &read), (protocol, &ask)]);
    let jobs = jobs.cycle().take(WORKERS).map(|(protocol, job)| (target.clone(), protocol, job.clone()));
    Load::start(jobs.collect(), EVERY)
}

/// A good number of requests, none of which fails.
async fn goes_on(load: &Load) -> Result<()> {
    let mut answers = 0;
    while answers < SOME {
        load.good_since(Instant::now(), SOON).await?;
        let (more, failed) = load.report()?;
        ensure!(failed.is_empty(), "requests fail: {failed:?}");
        answers += more;
    }
    Ok(())
}

async fn no_request_fails_while_each_is_replaced(lab: Arc<Lab>) -> Result<()> {
    let load = load(&lab).await?;
    goes_on(&load).await?;
    for round in 0..ROUNDS {
        for service in SERVICES {
            for name in [service.to_owned(), format!("{service}-1")] {
                let process = lab.process(&name)?;
                let begun = Instant::now();
                let status = process.stop().await?.context("it did not run")?;
                ensure!(status.success(), "{name} ends with {status}");
                let stopped = begun.elapsed();
                process.start().await?;
                process.wait_ready(SOON).await?;
                let (whole, failed) = load.report().with_context(|| format!("{name}, round {round}"))?;
                println!("{name}: stopped after {stopped:?}, back after {:?}; {whole} answers", begun.elapsed());
                ensure!(failed.is_empty(), "requests fail while {name} is replaced: {failed:?}");
                goes_on(&load).await.with_context(|| format!("after {name}"))?;
            }
        }
    }
    Ok(())
}

/// What a watch of a [`Clock`] is, for whoever keeps one: begun anew where the last one has ended.
struct Watcher {
    client: reqwest::Client,
    url: String,
    version: String,
    /// The last that it has seen.
    tick: u64,
    /// The clock has stopped.
    done: bool,
    ends: usize,
    /// Finding nobody is no failure: it asks again.
    patient: bool,
}

const TICK: Duration = Duration::from_millis(50);
const WATCHES: usize = 20;

impl Watcher {
    /// Follows the clock until it stops. Each tick has to come, in order, and no watch may be cut.
    async fn follow(mut self) -> Result<Self> {
        while !self.done {
            let url = format!("{}&resourceVersion={}", self.url, self.version);
            let mut response = send(self.client.get(url), self.patient).await?;
            let mut come = Vec::new();
            while let Some(piece) = response.chunk().await.with_context(|| format!("cut after tick {}", self.tick))? {
                come.extend_from_slice(&piece);
                while let Some(end) = come.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = come.drain(..=end).collect();
                    self.take(&line)?;
                }
                if self.done {
                    return Ok(self);
                }
            }
            ensure!(come.is_empty(), "it ends within an event: {}", String::from_utf8_lossy(&come));
            self.ends += 1;
        }
        Ok(self)
    }

    fn take(&mut self, line: &[u8]) -> Result<()> {
        let event: Value = serde_json::from_slice(line)?;
        ensure!(text(&event, "/type")? == "MODIFIED", "{event}");
        let tick = text(&event, "/object/data/tick")?.parse()?;
        ensure!(tick == self.tick + 1, "tick {tick} after {}", self.tick);
        self.tick = tick;
        self.done = event.pointer("/object/data/last").is_some();
        self.version = text(&event, "/object/metadata/resourceVersion")?.to_owned();
        Ok(())
    }
}

/// A `patient` one asks until somebody is there; what it asks for may take effect more than once.
async fn send(request: reqwest::RequestBuilder, patient: bool) -> Result<reqwest::Response> {
    let once = || async {
        let request = request.try_clone().context("a request that cannot be sent again")?;
        Ok(request.send().await?.error_for_status()?)
    };
    if patient { lab::until("an answer", SOON, once).await } else { once().await }
}

fn text<'a>(json: &'a Value, at: &str) -> Result<&'a str> {
    json.pointer(at).and_then(Value::as_str).with_context(|| format!("no {at} in {json}"))
}

/// A ConfigMap that is changed all the time, and those who watch it.
struct Clock {
    target: Target,
    path: String,
    patient: bool,
    watches: JoinSet<Result<Watcher>>,
}

impl Clock {
    async fn start(lab: &Lab, name: &str, patient: bool) -> Result<Self> {
        lab.admin().stdout(&["create", "configmap", name, "--from-literal=tick=0"]).await?;
        let target = Target::new(lab, lab.cluster())?;
        let path = format!("/api/v1/namespaces/default/configmaps/{name}");
        let request = target.http(Protocol::Http1)?.get(target.url(&path));
        let clock: Value = request.send().await?.error_for_status()?.json().await?;
        let version = text(&clock, "/metadata/resourceVersion")?;
        let watch = format!("/api/v1/namespaces/default/configmaps?watch=1&fieldSelector=metadata.name%3D{name}");
        let mut watches = JoinSet::new();
        for protocol in [Protocol::Http1, Protocol::Http2].into_iter().cycle().take(WATCHES) {
            let (client, url, version) = (target.http(protocol)?, target.url(&watch), version.to_owned());
            watches.spawn(Watcher { client, url, version, tick: 0, done: false, ends: 0, patient }.follow());
        }
        Ok(Self { target, path, patient, watches })
    }

    /// Ticks until `replacing` is done. Every watch has to see every tick. Gives how many ticks there were, and how often
    /// watches were ended.
    async fn run(mut self, replacing: impl Future<Output = Result<()>>) -> Result<(u64, usize)> {
        let replaced = AtomicBool::new(false);
        let client = self.target.http(Protocol::Http1)?;
        let ticking = async {
            let mut pace = tokio::time::interval(TICK);
            for tick in 1_u64.. {
                pace.tick().await;
                let last = replaced.load(Relaxed);
                let patch = match last {
                    true => format!(r#"{{"data":{{"tick":"{tick}","last":"true"}}}}"#),
                    false => format!(r#"{{"data":{{"tick":"{tick}"}}}}"#),
                };
                let request = client.patch(self.target.url(&self.path)).body(patch);
                let request = request.header("content-type", "application/merge-patch+json");
                send(request, self.patient).await.with_context(|| format!("tick {tick}"))?;
                if last {
                    break;
                }
            }
            anyhow::Ok(())
        };
        let replacing = async {
            replacing.await?;
            replaced.store(true, Relaxed);
            Ok(())
        };
        tokio::try_join!(ticking, replacing)?;
        let (mut ends, mut ticks) = (0, 0);
        while let Some(watcher) = timeout(SOON, self.watches.join_next()).await.context("a watch has not seen all")? {
            let watcher = watcher??;
            ends += watcher.ends;
            ticks = watcher.tick;
        }
        Ok((ticks, ends))
    }
}

async fn watches_lose_nothing_while_links_are_replaced(lab: Arc<Lab>) -> Result<()> {
    let load = load(&lab).await?;
    let begun = Instant::now();
    let replacing = async {
        for name in ["gateway-link", "gateway-link-1"] {
            let process = lab.process(name)?;
            let begun = Instant::now();
            process.stop().await?.context("it did not run")?;
            let stopped = begun.elapsed();
            println!("{name}: stopped after {stopped:?}");
            // Watches would hold it for its whole drain time.
            ensure!(stopped < RESUMES, "{name} takes {stopped:?} to stop");
            process.start().await?;
            process.wait_ready(SOON).await?;
        }
        Ok(())
    };
    let (ticks, ends) = Clock::start(&lab, "clock", false).await?.run(replacing).await?;
    println!("{WATCHES} watches saw {ticks} ticks and were ended {ends} times");
    ensure!(ends >= WATCHES, "each was on one of the links that were replaced, and only {ends} watches ended");
    let (whole, failed) = load.report()?;
    ensure!(failed.is_empty(), "requests fail: {failed:?}");
    let rate = whole as f64 / begun.elapsed().as_secs_f64();
    println!("{rate:.0} requests/s beside them");
    ensure!(rate >= ENOUGH, "{rate:.0} requests/s are no load");
    Ok(())
}

/// There is one of it, so that requests find nobody for a while; but what has begun to be answered is answered whole, and a
/// watch ends between two events.
async fn a_control_plane_that_is_replaced_costs_only_what_finds_it_away(lab: Arc<Lab>) -> Result<()> {
    let load = load(&lab).await?;
    let control_plane = lab.process("control-plane")?;
    let replacing = async {
        for round in 0..ROUNDS {
            goes_on(&load).await.with_context(|| format!("round {round}"))?;
            let status = control_plane.stop().await?.context("it did not run")?;
            ensure!(status.success(), "it ends with {status}");
            control_plane.start().await?;
            control_plane.wait_ready(SOON).await?;
            let ready = Instant::now();
            load.good_since(ready, RESUMES).await.context("the control plane is there again")?;
            let resumed = ready.elapsed();
            let (whole, failed) = load.report()?;
            println!(
                "control-plane replaced: all works {resumed:?} after it is ready; {whole} answers, failed {failed:?}"
            );
            let broken: Vec<_> = failed.keys().filter(|kind| kind.contains("broken body")).collect();
            ensure!(broken.is_empty(), "answers broke off: {failed:?}");
        }
        Ok(())
    };
    let (ticks, ends) = Clock::start(&lab, "patient-clock", true).await?.run(replacing).await?;
    println!("{WATCHES} watches saw {ticks} ticks and were ended {ends} times");
    ensure!(ends >= WATCHES * ROUNDS, "the control plane ends them all, and only {ends} watches ended");
    Ok(())
}

async fn one_that_is_killed_costs_what_it_carried(lab: Arc<Lab>) -> Result<()> {
    let load = load(&lab).await?;
    goes_on(&load).await?;
    for service in SERVICES {
        let process = lab.process(service)?;
        process.kill().await?;
        let killed = Instant::now();
        load.good_since(killed, RESUMES).await.with_context(|| format!("{service} is killed, its replica is not"))?;
        let resumed = killed.elapsed();
        let (whole, failed) = load.report()?;
        let lost: u64 = failed.values().sum();
        println!("{service} killed: all works after {resumed:?}; {whole} answers, failed {failed:?}");
        // Each worker has one request under way.
        ensure!(lost <= WORKERS as u64, "more than was under way: {failed:?}");
        process.start().await?;
        process.wait_ready(SOON).await?;
        goes_on(&load).await.with_context(|| format!("after {service}"))?;
    }
    Ok(())
}
