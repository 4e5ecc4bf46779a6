//! The agent's link by way of a real HTTP proxy, Debian's tinyproxy, as the chart sets it up.

use anyhow::{Context, Result, ensure};
use lab::{Lab, Options, Process, Progress, until};
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::process::{Child, Command};

const SOON: Duration = Duration::from_secs(40);

/// A proxy that is there for one user; it ends when dropped.
struct Tinyproxy {
    program: PathBuf,
    folder: tempfile::TempDir,
    port: u16,
    running: Option<Child>,
}

impl Tinyproxy {
    async fn get() -> Result<Self> {
        let package = lab::unpack_debian_package("tinyproxy", &Progress::slow_only()).await?;
        let [port] = lab::free_ports()?;
        Ok(Self { program: package.join("usr/bin/tinyproxy"), folder: tempfile::tempdir()?, port, running: None })
    }

    /// Instead of the one before, whose connections end with it.
    async fn start(&mut self, password: &str) -> Result<()> {
        self.stop().await?;
        let config = self.folder.path().join("tinyproxy.conf");
        let log = self.log();
        let text = format!(
            "Port {}\nListen 127.0.0.1\nTimeout 600\nMaxClients 20\nLogFile \"{}\"\nBasicAuth ana {password}\n",
            self.port,
            log.display()
        );
        std::fs::write(&config, text)?;
        let mut command = Command::new(&self.program);
        command.arg("-d").arg("-c").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        self.running = Some(command.spawn().context("cannot run tinyproxy")?);
        let port = self.port;
        until("tinyproxy to listen", SOON, || async move {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.map(drop).map_err(|error| error.to_string())
        })
        .await
    }

    async fn stop(&mut self) -> Result<()> {
        if let Some(mut running) = self.running.take() {
            running.kill().await.context("tinyproxy does not end")?;
        }
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("tinyproxy.log")
    }
}

/// Waits until a file has this text behind its first `from` bytes.
async fn says(file: &Path, from: usize, text: &str) -> Result<()> {
    until(&format!("{} to say {text:?}", file.display()), SOON, || async move {
        let all = std::fs::read(file).map_err(|error| error.to_string())?;
        let new = String::from_utf8_lossy(all.get(from..).unwrap_or_default()).into_owned();
        if new.contains(text) { Ok(()) } else { Err(new) }
    })
    .await
}

fn length(process: &Process) -> Result<usize> {
    Ok(std::fs::read(process.log())?.len())
}

#[tokio::test]
async fn the_link_goes_by_way_of_a_proxy_and_comes_back_when_the_proxy_does() -> Result<()> {
    let mut proxy = Tinyproxy::get().await?;
    proxy.start("sesame").await?;
    let url = format!("http://127.0.0.1:{}", proxy.port);
    let given = format!("agent.pipeops.proxy.url=http://ana:sesame@127.0.0.1:{}", proxy.port);
    let lab = Lab::start(Options { values: vec![given], ..Options::default() }).await?;
    let control_plane = lab.url()?.trim_start_matches("https://").to_owned();
    says(&proxy.log(), 0, &format!("CONNECT {control_plane} HTTP/1.1")).await?;
    let listed = lab.kubectl(&["get", "namespaces"]).await?;
    ensure!(listed.stdout.contains("kube-system"), "{listed:?}");

    let link = lab.process("gateway-link")?;
    let mut before = length(&link)?;
    proxy.stop().await?;
    says(link.log(), before, &format!("cannot connect to the proxy {url}")).await?;
    before = length(&link)?;
    proxy.start("changed").await?;
    says(link.log(), before, &format!("the proxy {url} answered 401 Unauthorized to CONNECT {control_plane}")).await?;
    says(link.log(), before, "check the user and the password in its URL").await?;
    ensure!(link.is_running(), "gateway-link has ended");
    proxy.start("sesame").await?;
    lab.wait_ready(SOON).await?;
    let listed = lab.kubectl(&["get", "namespaces"]).await?;
    ensure!(listed.stdout.contains("kube-system"), "{listed:?}");

    let log = std::fs::read_to_string(link.log())?;
    // The password, and what is sent of it.
    ensure!(!log.contains("sesame") && !log.contains("YW5hOnNlc2FtZQ"), "gateway-link logs the proxy's password");
    lab.stop().await
}
