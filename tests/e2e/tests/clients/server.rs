//! A server of this machine, and the port of the control plane that leads to it.

use anyhow::{Context, Result, ensure};
use lab::{Lab, until};
use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    process::{ExitStatus, Stdio},
    sync::OnceLock,
    time::Duration,
};
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    time::timeout,
};

pub const SOON: Duration = Duration::from_secs(60);
/// Of one run of a client.
const ENDS_WITHIN: Duration = Duration::from_secs(120);

static SERVERS: OnceLock<Servers> = OnceLock::new();

/// Where each server will listen, which the agent is told before there is a lab.
#[derive(Clone, Copy, Debug)]
pub struct Servers {
    pub postgresql: u16,
    pub redis: u16,
    pub dns: u16,
    pub ssh: u16,
    pub iperf: u16,
}

impl Servers {
    /// On ports that nobody has.
    pub fn free() -> Result<Self> {
        let [postgresql, redis, dns, ssh, iperf] = lab::free_ports()?;
        let servers = Self { postgresql, redis, dns, ssh, iperf };
        Ok(*SERVERS.get_or_init(|| servers))
    }

    /// Those of this run.
    pub fn get() -> Result<Self> {
        SERVERS.get().copied().context("no ports were chosen")
    }

    /// The agent's settings, as the chart has them.
    pub fn values(&self) -> Vec<String> {
        let forwards = [
            ("postgresql", self.postgresql, "tcp"),
            ("redis", self.redis, "tcp"),
            ("dns", self.dns, "tcp"),
            ("dns-udp", self.dns, "udp"),
            ("ssh", self.ssh, "tcp"),
            ("iperf", self.iperf, "tcp"),
            ("iperf-udp", self.iperf, "udp"),
        ];
        let value = |(at, (name, port, protocol)): (usize, (&str, u16, &str))| {
            let of = |key: &str, value: &str| format!("agent.tunnel.forwards[{at}].{key}={value}");
            [of("name", name), of("local_addr", &format!("127.0.0.1:{port}")), of("protocol", protocol)]
        };
        forwards.into_iter().enumerate().flat_map(value).collect()
    }
}

/// The port of the control plane for one of them.
pub async fn port(lab: &Lab, name: &str) -> Result<SocketAddr> {
    let id = format!("forward-{name}");
    until("the forward to have a port", SOON, || async {
        let listed = lab.control_plane(&["tunnel", "list"]).await?;
        let line = listed.lines().find(|line| line.split_whitespace().any(|word| word == id));
        let port = line.and_then(|line| line.split_whitespace().find_map(|word| word.parse::<u16>().ok()));
        anyhow::Ok(SocketAddr::new(host(lab)?, port.with_context(|| format!("{id} has no port in\n{listed}"))?))
    })
    .await
}

/// Where the control plane is.
pub fn host(lab: &Lab) -> Result<IpAddr> {
    let host = lab.url()?.trim_start_matches("https://").split(':').next().context("no host")?;
    Ok(host.parse()?)
}

/// A process that ends with the test.
pub struct Running(Child);

impl Running {
    /// Started, and listening on that TCP port.
    pub async fn start(command: &mut Command, log: &Path, port: u16) -> Result<Self> {
        let file = std::fs::File::create(log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).kill_on_drop(true);
        let mut running = Self(command.spawn().with_context(|| format!("cannot run {:?}", command.as_std()))?);
        let listens = until("the server to listen", SOON, || async {
            TcpStream::connect(("127.0.0.1", port)).await.map(drop).map_err(|error| error.to_string())
        });
        let ended = tokio::select! {
            listens = listens => return listens.map(|()| running).with_context(|| read(log)),
            ended = running.0.wait() => ended?,
        };
        anyhow::bail!("the server ends ({ended}): {}", read(log))
    }
}

fn read(log: &Path) -> String {
    std::fs::read_to_string(log).unwrap_or_default()
}

/// What a client says, and how it ends.
pub struct Said {
    pub stdout: String,
    pub stderr: String,
    pub status: ExitStatus,
}

/// Runs a client to its end.
pub async fn said(command: &mut Command) -> Result<Said> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(ENDS_WITHIN, command.output()).await;
    let output = output.with_context(|| format!("it does not end: {:?}", command.as_std()))??;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Ok(Said { stdout: text(&output.stdout), stderr: text(&output.stderr), status: output.status })
}

/// What one says that succeeds.
pub async fn succeeds(command: &mut Command) -> Result<String> {
    let Said { stdout, stderr, status } = said(command).await?;
    ensure!(status.success(), "{:?}: {status}\n{stdout}\n{stderr}", command.as_std());
    Ok(stdout)
}
