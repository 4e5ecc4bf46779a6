//! One request is one trace through every hop, and only when its beginner says so.

use anyhow::{Context, Result, bail, ensure};
use e2e::{
    client::Target,
    collector::Span,
    scenes,
    stage::{Stage, run},
    wire::Framing,
};
use lab::until;
use std::{collections::BTreeMap, process::ExitCode, time::Duration};

/// Spans are sent in batches; the SDK's default is one in 5 s.
const SENT_WITHIN: Duration = Duration::from_secs(15);
/// The hops in their order: which process, which span.
const HOPS: [(&str, &str); 5] = [
    ("control-plane", "control-plane.request"),
    ("gateway-link", "link.stream"),
    ("gateway-link", "bus.stream"),
    ("proxy-executor", "proxy.request"),
    ("proxy-executor", "kubernetes.api"),
];

fn main() -> ExitCode {
    run(
        true,
        scenes![
            a_sampled_request_is_one_trace_through_every_hop,
            the_api_server_knows_which_span_called_it,
            a_failed_request_shows_where_it_failed,
            an_unsampled_request_leaves_no_span_and_its_context_goes_on,
        ],
    )
}

/// A trace nobody has used: its id, and the client's own span.
fn fresh(index: u64) -> (String, String) {
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
    (format!("{nanos:031x}{index:x}"), format!("{:016x}", 0xc11e_0000 + index))
}

async fn get(target: &Target, path: &str, traceparent: &str) -> Result<u16> {
    let mut wire = target.begin("GET", path, &[&format!("traceparent: {traceparent}")]).await?;
    let head = wire.need_head().await?;
    wire.body(head.framing(Framing::ToEnd)).await?;
    Ok(head.status())
}

/// The trace's spans by name, when all have come; checks that each is its predecessor's child, the first the client's.
async fn chain(stage: &Stage, trace: &str, client: &str, hops: &[(&str, &str)]) -> Result<BTreeMap<String, Span>> {
    let collector = stage.collector.as_ref().context("nothing collects")?;
    let spans = until(&format!("{} spans of trace {trace}", hops.len()), SENT_WITHIN, || async {
        let spans = collector.trace(trace);
        ensure!(spans.len() >= hops.len(), "{spans:#?}");
        Ok(spans)
    })
    .await?;
    ensure!(spans.len() == hops.len(), "more spans than hops: {spans:#?}");
    let mut parent = client.to_owned();
    let mut before = 0;
    for (service, name) in hops {
        let span = spans.iter().find(|span| span.name == *name).with_context(|| format!("no {name}: {spans:#?}"))?;
        ensure!(span.service == *service, "{name} is of {}", span.service);
        ensure!(span.parent == parent, "{name} is a child of {}, not of {parent}: {spans:#?}", span.parent);
        ensure!(before <= span.start_ns && span.start_ns <= span.end_ns, "{name} begins before its parent: {spans:#?}");
        parent.clone_from(&span.id);
        before = span.start_ns;
    }
    Ok(spans.into_iter().map(|span| (span.name.clone(), span)).collect())
}

async fn a_sampled_request_is_one_trace_through_every_hop(stage: &Stage) -> Result<()> {
    // Twice, so that the second could meet pooled streams and connections: each request still has its own trace.
    for index in 0..2 {
        let (trace, client) = fresh(index);
        let id = format!("traced-{index}");
        let status = get(&stage.plain()?, &format!("/small?id={id}"), &format!("00-{trace}-{client}-01")).await?;
        ensure!(status == 200, "{status}");
        let spans = chain(stage, &trace, &client, &HOPS).await?;
        ensure!(spans.values().all(|span| !span.failed), "a span has failed: {spans:#?}");
        let last = spans.get("kubernetes.api").context("no last span")?;
        let head = stage.backend.head(&id).context("the backend saw no request")?;
        let expected = format!("00-{trace}-{}-01", last.id);
        ensure!(
            head.get("traceparent") == Some(&expected),
            "the backend got {:?}, not {expected}",
            head.get("traceparent")
        );
    }
    Ok(())
}

/// A real one, which takes only monitoring systems' and administrators' traces for its own: for everybody else it begins a trace, in
/// which its span names the caller's as a link.
async fn the_api_server_knows_which_span_called_it(stage: &Stage) -> Result<()> {
    let (trace, client) = fresh(7);
    let path = "/api/v1/namespaces/kube-system";
    ensure!(get(&stage.kube()?, path, &format!("00-{trace}-{client}-01")).await? == 200, "not 200");
    let spans = chain(stage, &trace, &client, &HOPS).await?;
    let last = spans.get("kubernetes.api").context("no last span")?;
    let collector = stage.collector.as_ref().context("nothing collects")?;
    until("the API server's span", SENT_WITHIN, || async {
        let linked = collector.linked_to(&trace, &last.id);
        let [span] = linked.as_slice() else { bail!("{} spans are linked to {last:?}", linked.len()) };
        ensure!(span.service == "apiserver" && span.name.contains("GET"), "{span:?} is linked to {last:?}");
        ensure!(last.start_ns <= span.start_ns && span.start_ns <= last.end_ns, "{span:?} is not within {last:?}");
        Ok(())
    })
    .await
}

async fn a_failed_request_shows_where_it_failed(stage: &Stage) -> Result<()> {
    let (trace, client) = fresh(3);
    let status = get(&stage.plain()?, "/no-answer", &format!("00-{trace}-{client}-01")).await?;
    ensure!(status == 502, "{status}");
    let spans = chain(stage, &trace, &client, &HOPS).await?;
    for name in ["control-plane.request", "proxy.request"] {
        ensure!(spans.get(name).is_some_and(|span| span.failed), "{name} is not marked as failed: {spans:#?}");
    }
    // Nobody takes the stream: the trace ends at the bus.
    let (trace, client) = fresh(4);
    stage.side.executor.stop().await?;
    let outcome = get(&stage.plain()?, "/small", &format!("00-{trace}-{client}-01")).await;
    stage.side.executor.start().await?;
    ensure!(outcome? == 503, "not 503");
    let hops = HOPS.get(..3).unwrap_or_default();
    let spans = chain(stage, &trace, &client, hops).await?;
    ensure!(spans.values().all(|span| span.failed), "{spans:#?}");
    Ok(())
}

async fn an_unsampled_request_leaves_no_span_and_its_context_goes_on(stage: &Stage) -> Result<()> {
    let (trace, client) = fresh(5);
    let traceparent = format!("00-{trace}-{client}-00");
    ensure!(get(&stage.plain()?, "/small?id=unsampled", &traceparent).await? == 200, "not 200");
    let head = stage.backend.head("unsampled").context("the backend saw no request")?;
    ensure!(head.get("traceparent") == Some(&traceparent), "the backend got {:?}", head.get("traceparent"));
    // A sampled one behind it on the same way: when its spans are there, the other's would be too.
    let (sampled, client) = fresh(6);
    ensure!(get(&stage.plain()?, "/small", &format!("00-{sampled}-{client}-01")).await? == 200, "not 200");
    chain(stage, &sampled, &client, &HOPS).await?;
    let spans = stage.collector.as_ref().context("nothing collects")?.trace(&trace);
    ensure!(spans.is_empty(), "{spans:#?}");
    Ok(())
}
