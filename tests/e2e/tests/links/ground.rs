//! The lab's agent with proxies on its ways, in place of the lab's own.

use anyhow::{Context, Result, ensure};
use e2e::{Protocol, client::Target, gauges::Look, way::Way};
use lab::{Health, Lab, Process, until};
use reqwest::Response;
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::timeout;

const READY_WITHIN: Duration = Duration::from_secs(40);
const REPLACED: [&str; 2] = ["gateway-link", "proxy-executor"];

/// One link, one executor, and what is between them and others.
pub struct Ground {
    pub lab: Arc<Lab>,
    /// From gateway-link to the control plane.
    pub link: Way,
    /// From gateway-link to the bus.
    pub link_bus: Way,
    /// From proxy-executor to the bus.
    pub executor_bus: Way,
    pub gateway_link: Process,
    pub executor: Process,
}

impl Ground {
    /// Stops the lab's own two, and starts theirs. [`Ground::end`] puts them back.
    pub async fn begin(lab: &Arc<Lab>) -> Result<Self> {
        for own in REPLACED {
            lab.process(own)?.stop().await?;
        }
        let (link, bus) = (Way::to(control_plane(lab)?).await?, bus(lab)?);
        let (link_bus, executor_bus) = (Way::to(bus).await?, Way::to(bus).await?);
        let url = |way: &Way| ("PIPEOPS_BUS_URL", format!("nats://{}", way.address()));
        let gateway_link = another(lab, "gateway-link", "far", &[by_way(&link), url(&link_bus)])?;
        let executor = another(lab, "proxy-executor", "far", &[url(&executor_bus)])?;
        let ground = Self { lab: Arc::clone(lab), link, link_bus, executor_bus, gateway_link, executor };
        for process in [&ground.executor, &ground.gateway_link] {
            process.start().await?;
        }
        for process in [&ground.executor, &ground.gateway_link] {
            process.wait_ready(READY_WITHIN).await?;
        }
        ground.answers(READY_WITHIN).await?;
        Ok(ground)
    }

    pub async fn end(self) -> Result<()> {
        for process in [&self.gateway_link, &self.executor] {
            process.stop().await?;
        }
        for own in REPLACED {
            self.lab.process(own)?.start().await?;
        }
        self.lab.wait_ready(READY_WITHIN).await
    }

    /// Waits for a request that is answered; gives how long that took.
    pub async fn answers(&self, limit: Duration) -> Result<Duration> {
        let begun = Instant::now();
        let client = Target::new(&self.lab, self.lab.cluster())?.http(Protocol::Http1)?;
        until("a request to be answered", limit, || get(&self.lab, &client)).await?;
        Ok(begun.elapsed())
    }

    pub async fn control_plane(&self) -> Result<Look> {
        Look::at(&*self.lab.process("control-plane")?).await
    }
}

/// `GET /api/v1/namespaces/default`, which the API server itself has to answer.
pub async fn get(lab: &Lab, client: &reqwest::Client) -> Result<()> {
    let url = Target::new(lab, lab.cluster())?.url("/api/v1/namespaces/default");
    let response = client.get(url).timeout(Duration::from_secs(5)).send().await?;
    let status = response.status();
    let body = response.text().await?;
    ensure!(status == 200, "{status}: {body}");
    Ok(())
}

/// The lab's service once more, beside its own: with a log, a port and settings of its own.
pub fn another(lab: &Lab, service: &str, prefix: &str, settings: &[(&str, String)]) -> Result<Process> {
    let [port] = lab::free_ports()?;
    let mut spec = lab.process(service)?.spec().clone();
    spec.name = format!("{prefix}-{service}");
    spec.health = Health::Http(format!("http://127.0.0.1:{port}/ready"));
    spec.env.insert("PIPEOPS_SERVER_LISTEN".to_owned(), format!("127.0.0.1:{port}"));
    spec.env.extend(settings.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
    Ok(lab.add_process(spec))
}

/// The setting that leads a gateway-link there.
pub fn by_way(way: &Way) -> (&'static str, String) {
    ("PIPEOPS_API_URL", format!("https://{}", way.address()))
}

pub fn control_plane(lab: &Lab) -> Result<SocketAddr> {
    let url = lab.url()?;
    Ok(url.strip_prefix("https://").with_context(|| format!("{url} has no TLS"))?.parse()?)
}

pub fn bus(lab: &Lab) -> Result<SocketAddr> {
    let nats = lab.process("nats-server")?;
    let mut args = nats.spec().args.iter().skip_while(|arg| *arg != "--port");
    let port: u16 = args.nth(1).context("nats-server has no --port")?.parse()?;
    Ok((Ipv4Addr::LOCALHOST, port).into())
}

/// Links that ended, by why.
pub fn link_ends(look: &Look, why: &str) -> f64 {
    let label = format!("reason=\"{why}\"");
    let ends: BTreeMap<_, _> =
        look.metrics.iter().filter(|(name, _)| name.contains("_link_ends") && name.contains(&label)).collect();
    ends.values().copied().sum()
}

/// A watch that has begun.
pub async fn watch(lab: &Lab) -> Result<Response> {
    let target = Target::new(lab, lab.cluster())?;
    let url = target.url("/api/v1/namespaces?watch=1");
    let mut response = target.http(Protocol::Http1)?.get(url).send().await?.error_for_status()?;
    ensure!(response.chunk().await?.is_some(), "the watch ends at once");
    Ok(response)
}

/// Waits for the end of what is under way, which has to look like one to its client: gives how long that took.
pub async fn breaks_off(mut response: Response, limit: Duration) -> Result<Duration> {
    let begun = Instant::now();
    let end = timeout(limit, async {
        loop {
            match response.chunk().await {
                Ok(Some(_)) => {}
                Ok(None) => return "a clean end".to_owned(),
                Err(error) => return format!("{error}"),
            }
        }
    });
    let end = end.await.with_context(|| format!("a watch is open and silent after {limit:?}"))?;
    ensure!(end != "a clean end", "a watch that was cut off ends as if it were complete");
    Ok(begun.elapsed())
}
