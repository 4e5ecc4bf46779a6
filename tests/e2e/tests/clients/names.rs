use crate::server::{Running, Servers, port, succeeds};
use anyhow::{Result, ensure};
use lab::{Lab, Progress};
use std::{net::SocketAddr, sync::Arc};
use tokio::process::Command;

/// Names that have one address, and one whose answer is longer than a datagram of DNS may be without more ado.
const ZONE: &str = "$ORIGIN lab.example.\n@ 60 IN SOA ns admin 1 60 60 60 60\n@ 60 IN NS ns\nns 60 IN A 192.0.2.1\nweb 60 IN A 192.0.2.7\n";
const LONG: usize = 60;

async fn dig(address: SocketAddr, args: &[&str]) -> Result<String> {
    let mut command = Command::new("dig");
    command.arg(format!("@{}", address.ip())).args(["-p", &address.port().to_string(), "+tries=3"]).args(args);
    succeeds(&mut command).await
}

pub async fn dig_asks_over_udp_and_tcp(lab: Arc<Lab>) -> Result<()> {
    lab::install_debian_packages(&["bind9-dnsutils"], &Progress::slow_only()).await?;
    let folder = tempfile::tempdir()?;
    let servers = Servers::get()?;
    let long = (0..LONG).map(|n| format!("long 60 IN TXT \"{n:0>100}\"\n")).collect::<String>();
    std::fs::write(folder.path().join("zone"), format!("{ZONE}{long}"))?;
    let corefile = folder.path().join("Corefile");
    let zone = folder.path().join("zone");
    std::fs::write(
        &corefile,
        format!("lab.example:{} {{\n bind 127.0.0.1\n file {}\n errors\n}}\n", servers.dns, zone.display()),
    )?;
    let coredns = lab::Parts::only("coredns", &Progress::slow_only()).await?.path("coredns")?.to_owned();
    let mut command = Command::new(coredns);
    let _running = Running::start(command.arg("-conf").arg(&corefile), &folder.path().join("log"), servers.dns).await?;

    let (tcp, udp) = (port(&lab, "dns").await?, port(&lab, "dns-udp").await?);
    for (address, how) in [(udp, "+notcp"), (tcp, "+tcp")] {
        let short = dig(address, &[how, "+short", "web.lab.example", "A"]).await?;
        ensure!(short == "192.0.2.7\n", "{how}: {short}");
        let none = dig(address, &[how, "none.lab.example", "A"]).await?;
        ensure!(none.contains("status: NXDOMAIN"), "{how}: {none}");
    }
    // What does not fit a datagram is said to go on, and comes whole by TCP.
    let cut = dig(udp, &["+notcp", "+ignore", "long.lab.example", "TXT"]).await?;
    ensure!(cut.lines().any(|line| line.contains("flags: qr aa tc")), "{cut}");
    let whole = dig(tcp, &["+tcp", "+short", "long.lab.example", "TXT"]).await?;
    ensure!(whole.lines().count() == LONG, "{whole}");
    Ok(())
}
