use crate::server::{Running, Servers, port, said, succeeds};
use anyhow::{Result, ensure};
use lab::{Lab, Progress};
use std::{net::SocketAddr, path::Path, sync::Arc};
use tokio::process::Command;

/// PostgreSQL does not run as root.
const NOBODY: &str = "65534";
const ROWS: u32 = 200_000;

/// A program of the package, where somebody else than root sees it.
fn as_nobody(package: &Path, program: &str) -> Command {
    let apart = format!(
        "mount --bind \"$1\" /mnt && shift && exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups \"$@\""
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &apart, "sh"]).arg(package);
    command.arg(format!("/mnt/usr/lib/postgresql/15/bin/{program}"));
    command.env("LD_LIBRARY_PATH", format!("/mnt/usr/lib/{}-linux-gnu", std::env::consts::ARCH)).current_dir("/");
    command
}

fn psql(address: SocketAddr) -> Command {
    let mut command = Command::new("psql");
    command.args([
        "--no-psqlrc",
        "--no-password",
        "--quiet",
        "--tuples-only",
        "--no-align",
        "--set",
        "ON_ERROR_STOP=1",
    ]);
    command.args(["--host", &address.ip().to_string(), "--port", &address.port().to_string()]);
    command.args(["--username", "lab", "--dbname", "postgres"]);
    command
}

pub async fn psql_works_with_postgresql(lab: Arc<Lab>) -> Result<()> {
    lab::install_debian_packages(&["postgresql-client"], &Progress::slow_only()).await?;
    let package = lab::unpack_debian_package("postgresql-15", &Progress::slow_only()).await?;
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    succeeds(Command::new("chown").arg(NOBODY).arg(folder.path())).await?;
    let mut initdb = as_nobody(&package, "initdb");
    succeeds(initdb.args(["--username", "lab", "--auth", "trust", "--no-sync", "--pgdata"]).arg(&data)).await?;
    let servers = Servers::get()?;
    let mut postgres = as_nobody(&package, "postgres");
    postgres.args(["-p", &servers.postgresql.to_string(), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]);
    postgres.args(["-c", "unix_socket_directories=", "-D"]).arg(&data);
    let _running = Running::start(&mut postgres, &folder.path().join("log"), servers.postgresql).await?;
    let address = port(&lab, "postgresql").await?;

    let make = format!("create table t as select n, md5(n::text) as h from generate_series(1, {ROWS}) n");
    succeeds(psql(address).args(["--command", &make])).await?;
    let all = succeeds(psql(address).args(["--command", "copy t to stdout"])).await?;
    ensure!(all.lines().count() == ROWS as usize, "{} rows come out", all.lines().count());
    let file = folder.path().join("rows");
    std::fs::write(&file, &all)?;
    succeeds(psql(address).args(["--command", "create table u (like t)"])).await?;
    succeeds(psql(address).args(["--command", &format!("\\copy u from '{}'", file.display())])).await?;
    let same = "select count(*) from (select * from t except select * from u) d";
    let differ = succeeds(psql(address).args(["--command", same])).await?;
    ensure!(differ.trim() == "0", "{differ} rows differ after they went in again");
    let wrong = said(psql(address).args(["--command", "select nothing"])).await?;
    ensure!(
        wrong.status.code() == Some(1) && wrong.stderr.contains("column \"nothing\" does not exist"),
        "{}",
        wrong.stderr
    );
    Ok(())
}

fn redis_cli(program: &Path, address: SocketAddr) -> Command {
    let mut command = Command::new(program);
    command.args(["-h", &address.ip().to_string(), "-p", &address.port().to_string()]);
    command
}

pub async fn redis_cli_works_with_redis(lab: Arc<Lab>) -> Result<()> {
    // The tools are the server, too, under other names; the package of the server is its service only.
    let package = lab::unpack_debian_package("redis-tools", &Progress::slow_only()).await?;
    let libraries = package.join("usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH));
    let servers = Servers::get()?;
    let folder = tempfile::tempdir()?;
    // Called by another name it is the server.
    let server = folder.path().join("redis-server");
    std::os::unix::fs::symlink(package.join("usr/bin/redis-check-rdb"), &server)?;
    let mut redis = Command::new(&server);
    redis.args(["--port", &servers.redis.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]);
    redis.arg(folder.path()).env("LD_LIBRARY_PATH", &libraries);
    let _running = Running::start(&mut redis, &folder.path().join("log"), servers.redis).await?;
    let address = port(&lab, "redis").await?;
    let cli = package.join("usr/bin/redis-cli");
    let run = |args: &[&str]| {
        let mut command = redis_cli(&cli, address);
        command.args(args).env("LD_LIBRARY_PATH", &libraries);
        command
    };
    ensure!(succeeds(&mut run(&["set", "greeting", "hello"])).await? == "OK\n");
    ensure!(succeeds(&mut run(&["get", "greeting"])).await? == "hello\n");
    let made = succeeds(&mut run(&["eval", "return #redis.call('get', KEYS[1])", "1", "greeting"])).await?;
    ensure!(made.trim().ends_with('5'), "{made}");
    succeeds(&mut run(&["setrange", "large", "8388607", "x"])).await?;
    let large = succeeds(&mut run(&["get", "large"])).await?;
    ensure!(large.len() == 8 * 1024 * 1024 + 1 && large.ends_with("x\n"), "{} bytes", large.len());
    // A command each hundred microseconds, one after the other on one connection.
    let many = succeeds(&mut run(&["-r", "2000", "incr", "counter"])).await?;
    ensure!(many.lines().last().is_some_and(|last| last.ends_with("2000")), "{:?}", many.lines().last());
    let wrong = succeeds(&mut run(&["incr", "greeting"])).await?;
    ensure!(wrong.contains("not an integer"), "{wrong}");
    Ok(())
}
