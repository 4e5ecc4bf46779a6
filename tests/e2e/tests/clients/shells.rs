use crate::server::{Running, Servers, port, succeeds};
use anyhow::{Result, ensure};
use lab::{Lab, Progress};
use std::{fmt::Write as _, fs, os::unix::fs::PermissionsExt as _, sync::Arc};
use tokio::process::Command;

const LARGE: usize = 64 << 20;

pub async fn ssh_and_sftp_work_with_openssh(lab: Arc<Lab>) -> Result<()> {
    lab::install_debian_packages(&["openssh-client"], &Progress::slow_only()).await?;
    let package = lab::unpack_debian_package("openssh-server", &Progress::slow_only()).await?;
    let libraries = package.join("usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH));
    let servers = Servers::get()?;
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    for key in ["host", "user"] {
        succeeds(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(at(key))).await?;
    }
    fs::copy(at("user.pub"), at("authorized"))?;
    fs::set_permissions(at("host"), fs::Permissions::from_mode(0o600))?;
    let mut config = String::new();
    writeln!(config, "ListenAddress 127.0.0.1:{}\nHostKey {}", servers.ssh, at("host").display())?;
    writeln!(config, "AuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPidFile none", at("authorized").display())?;
    writeln!(config, "PermitRootLogin prohibit-password\nSubsystem sftp internal-sftp")?;
    fs::write(at("config"), config)?;
    // The server wants a user of its own, and a folder in /run: it gets both where only it sees them.
    let mut users = fs::read_to_string("/etc/passwd")?;
    if !users.contains("\nsshd:") {
        users.push_str("sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n");
    }
    fs::write(at("passwd"), users)?;
    let apart =
        "mount --bind \"$1\" /etc/passwd && mount -t tmpfs none /run && mkdir /run/sshd && shift && exec \"$@\"";
    let mut server = Command::new("unshare");
    server.args(["--mount", "sh", "-c", apart, "sh"]).arg(at("passwd"));
    server.arg(package.join("usr/sbin/sshd")).args(["-D", "-e", "-f"]).arg(at("config"));
    server.env("LD_LIBRARY_PATH", &libraries);
    let _running = Running::start(&mut server, &at("log"), servers.ssh).await?;

    let address = port(&lab, "ssh").await?;
    let (host, number) = (address.ip().to_string(), address.port().to_string());
    let options = [
        "StrictHostKeyChecking=no".to_owned(),
        "UserKnownHostsFile=/dev/null".to_owned(),
        "BatchMode=yes".to_owned(),
        "LogLevel=ERROR".to_owned(),
        format!("IdentityFile={}", at("user").display()),
    ];
    let client = |program: &str, port_flag: &str| {
        let mut command = Command::new(program);
        command.args(options.iter().flat_map(|option| ["-o", option])).args([port_flag, &number]);
        command
    };
    let user = format!("root@{host}");
    let said = succeeds(client("ssh", "-p").args([&user, "echo one; echo two >&2; seq 1 200000 | cksum"])).await?;
    ensure!(said.starts_with("one\n") && said.contains("1288895"), "{said}");
    let said = crate::server::said(client("ssh", "-p").args([&user, "exit 42"])).await?;
    ensure!(said.status.code() == Some(42), "{}", said.status);

    let bytes = (0..LARGE).map(|n| u8::try_from(n % 251).unwrap_or_default()).collect::<Vec<_>>();
    fs::write(at("sent"), &bytes)?;
    let batch = format!(
        "put {} {}\nget {} {}\n",
        at("sent").display(),
        at("kept").display(),
        at("kept").display(),
        at("got").display()
    );
    fs::write(at("batch"), batch)?;
    succeeds(client("sftp", "-P").arg("-b").arg(at("batch")).arg(&user)).await?;
    ensure!(fs::read(at("got"))? == bytes, "what comes back by sftp differs");
    Ok(())
}
