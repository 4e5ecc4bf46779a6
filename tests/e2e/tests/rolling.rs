//! Two replicas of what a request passes: each is restarted in turn, as a rolling update does it, and one is killed.

use anyhow::{Context, Result, ensure};
use e2e::{
    Protocol, Turns, cases,
    client::Target,
    load::{Job, Load},
};
use lab::{Lab, Options};
use std::{
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

const SERVICES: [&str; 2] = ["gateway-link", "proxy-executor"];
const ROUNDS: usize = 2;
/// With these, 200 requests/s where the machine is fast enough.
const WORKERS: usize = 20;
const EVERY: Duration = Duration::from_millis(100);
/// That the load has gone on for a while: so many requests since the last report.
const SOME: u64 = 100;
const SOON: Duration = Duration::from_secs(60);
const RESUMES: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let replicas = SERVICES.map(|service| (service.to_owned(), 2)).into();
    let cases = cases![no_request_fails_while_each_is_replaced, one_that_is_killed_costs_what_it_carried];
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
