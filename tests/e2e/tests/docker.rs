//! The Dockerfile and docker-compose.yaml speak of the workspace as it is: its binaries, their settings and their ports.

use anyhow::{Context, Result, ensure};
use lab::{Health, Lab, Options, Spec};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::Path,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::Command,
};

const SOON: Duration = Duration::from_secs(20);

/// Every service with the environment variables it reads and their defaults.
fn services() -> BTreeMap<&'static str, BTreeMap<String, String>> {
    BTreeMap::from([
        ("control-plane", variables(&runtime::settings_help::<control_plane::Options>())),
        ("gateway-link", variables(&runtime::settings_help::<gateway_link::Options>())),
        ("proxy-executor", variables(&runtime::settings_help::<proxy_executor::Options>())),
        ("route-syncer", variables(&runtime::settings_help::<route_syncer::Options>())),
        ("state-keeper", variables(&runtime::settings_help::<state_keeper::Options>())),
    ])
}

/// Of the lines `[env: NAME, NAME] [default: VALUE]`.
fn variables(help: &str) -> BTreeMap<String, String> {
    let lines = help.lines().filter_map(|line| line.trim().strip_prefix("[env: ")?.split_once("] [default: "));
    lines
        .flat_map(|(names, default)| {
            let default = default.trim_end_matches(']').to_owned();
            names.split(", ").map(move |name| (name.to_owned(), default.clone()))
        })
        .collect()
}

fn file(path: &str) -> Result<String> {
    std::fs::read_to_string(lab::workspace().join(path)).with_context(|| format!("cannot read {path}"))
}

fn port(address: &str) -> &str {
    address.rsplit(':').next().unwrap_or_default()
}

/// The instructions of each stage of the Dockerfile.
fn stages() -> Result<BTreeMap<String, Vec<String>>> {
    let text = file("docker/Dockerfile")?.replace("\\\n", " ");
    let mut stages = BTreeMap::<String, Vec<String>>::new();
    let mut name = String::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
        if let Some(stage) = line.strip_prefix("FROM ") {
            name = stage.split_once(" AS ").context("a stage without a name")?.1.to_owned();
        }
        stages.entry(name.clone()).or_default().push(line);
    }
    Ok(stages)
}

#[test]
fn every_service_has_a_target_with_its_binary_and_ports() -> Result<()> {
    let stages = stages()?;
    let services = services();
    let is_target = |lines: &&Vec<String>| lines.iter().any(|line| line.starts_with("ENTRYPOINT"));
    let targets: BTreeSet<&str> =
        stages.iter().filter(|(_, lines)| is_target(lines)).map(|(name, _)| name.as_str()).collect();
    let folders: BTreeSet<String> = std::fs::read_dir(lab::workspace().join("services"))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    ensure!(folders.iter().all(|name| targets.contains(name.as_str())), "targets {targets:?}, services {folders:?}");
    ensure!(targets == services.keys().copied().collect(), "targets {targets:?}; this test knows {services:?}");

    let build = stages.get("build").context("there is no stage `build`")?.join("\n");
    for (name, variables) in &services {
        let lines = stages.get(*name).context("no such stage")?;
        let has = |line: &str| ensure_line(name, lines, line);
        ensure!(build.contains(&format!("--package {name} ")), "{name} is not built");
        ensure!(build.contains(&format!(" target/dist/{name} ")), "{name} is not kept");
        has(&format!("COPY --from=binaries /{name} /usr/local/bin/{name}"))?;
        has(&format!("ENTRYPOINT [\"{name}\"]"))?;
        let listens = ["PIPEOPS_LISTEN", "PIPEOPS_SERVER_LISTEN"].into_iter().filter_map(|key| variables.get(key));
        let ports: Vec<&str> = listens.map(|address| port(address)).collect();
        has(&format!("EXPOSE {}", ports.join(" ")))?;
        for line in lines.iter().filter_map(|line| line.strip_prefix("ENV ")) {
            let (key, _) = line.split_once('=').with_context(|| format!("{name}: ENV {line}"))?;
            ensure!(variables.contains_key(key), "{name} does not read {key}");
        }
    }
    Ok(())
}

fn ensure_line(stage: &str, lines: &[String], line: &str) -> Result<()> {
    ensure!(lines.iter().any(|found| found == line), "the stage {stage} has no line `{line}`: {lines:#?}");
    Ok(())
}

struct Compose(Value);

impl Compose {
    fn read() -> Result<Self> {
        Ok(Self(serde_saphyr::from_str(&file("docker-compose.yaml")?)?))
    }

    fn services(&self) -> Result<impl Iterator<Item = (&String, &Value)>> {
        Ok(self.0.pointer("/services").and_then(Value::as_object).context("no services")?.iter())
    }

    fn text(&self, service: &str, key: &str) -> Result<&str> {
        let found = self.0.pointer(&format!("/services/{service}/{key}")).and_then(Value::as_str);
        found.with_context(|| format!("{service} of docker-compose.yaml has no {key}"))
    }

    /// Where a service's password for the bus is.
    fn password_file(&self, service: &str) -> Result<&str> {
        let found = self.0.pointer(&format!("/secrets/{service}-password/file")).and_then(Value::as_str);
        found.with_context(|| format!("docker-compose.yaml has no secret {service}-password"))
    }

    fn list(&self, service: &str, key: &str) -> Vec<&str> {
        let found = self.0.pointer(&format!("/services/{service}/{key}")).and_then(Value::as_array);
        found.into_iter().flatten().filter_map(Value::as_str).collect()
    }
}

#[test]
fn compose_runs_every_service_with_settings_it_reads() -> Result<()> {
    let compose = Compose::read()?;
    let services = services();
    for name in services.keys() {
        ensure!(compose.text(name, "build/target")? == *name, "{name} is built from another target");
        ensure!(compose.text(name, "image")? == format!("pipeops/{name}:local"), "{name} is of another image");
        ensure!(compose.text(name, "build/dockerfile")? == "docker/Dockerfile", "{name} has another Dockerfile");
    }
    for (name, service) in compose.services()? {
        let image = service.pointer("/image").and_then(Value::as_str).unwrap_or_default();
        let Some(binary) = image.strip_prefix("pipeops/").and_then(|image| image.strip_suffix(":local")) else {
            continue;
        };
        let known = services.get(binary).with_context(|| format!("{name} runs {binary}, which is no service"))?;
        for key in service.pointer("/environment").and_then(Value::as_object).into_iter().flatten().map(|(key, _)| key)
        {
            ensure!(known.contains_key(key), "{name} sets {key}, which {binary} does not read");
        }
        // What docker/kubernetes.sh writes there.
        let on_host = ["proxy-executor", "route-syncer", "state-keeper"].contains(&binary);
        ensure!(on_host == service.pointer("/env_file").is_some(), "{name} and the address of the API server");
        if on_host {
            let written = file("docker/kubernetes.sh")?;
            let lines = written.lines().filter(|line| line.ends_with(r#">"$folder/env""#));
            for (key, _) in lines.filter_map(|line| line.strip_prefix("printf '")?.split_once('=')) {
                ensure!(known.contains_key(key), "docker/kubernetes.sh sets {key}, which {binary} does not read");
            }
        }
    }
    Ok(())
}

#[test]
fn compose_leads_from_each_to_the_next() -> Result<()> {
    let compose = Compose::read()?;
    let listen = port(compose.text("control-plane", "environment/PIPEOPS_LISTEN")?);
    ensure!(
        compose.list("control-plane", "ports").iter().any(|published| port(published) == listen),
        "the control plane's port {listen} is not published"
    );
    let names = compose.text("control-plane", "environment/PIPEOPS_TLS_NAMES")?;
    let url = compose.text("gateway-link", "environment/PIPEOPS_API_URL")?;
    ensure!(url == format!("https://{names}:{listen}"), "gateway-link goes to {url}");

    let nats: Value = serde_saphyr::from_str(&file("charts/pipeops-agent/charts/nats/values.yaml")?)?;
    let bus = port(nats.pointer("/listen/client").and_then(Value::as_str).context("the chart's nats has no listen")?);
    ensure!(compose.list("nats", "ports").iter().any(|published| port(published) == bus), "the bus is not published");
    let part = lab::PARTS.iter().find(|part| part.name == "nats-server").context("no such part")?;
    ensure!(
        compose.text("nats", "image")?.contains(part.version),
        "the lab runs NATS {}, docker-compose.yaml {}",
        part.version,
        compose.text("nats", "image")?
    );
    let mut probes = BTreeSet::new();
    for name in ["gateway-link", "proxy-executor", "route-syncer", "state-keeper"] {
        let url = compose.text(name, "environment/PIPEOPS_BUS_URL")?;
        ensure!(port(url) == bus, "{name} looks for the bus at {url}");
        ensure!(compose.text(name, "environment/PIPEOPS_BUS_USER")? == name, "{name} is another user of the bus");
        let secret = format!("{name}-password");
        let path = compose.text(name, "environment/PIPEOPS_BUS_PASSWORD_FILE")?;
        ensure!(path == format!("/run/secrets/{secret}"), "{name} reads its password from {path}");
        ensure!(compose.list(name, "secrets") == [secret.as_str()], "{name} is not given {secret}");
        // Three of them are on the host's network.
        if let Ok(address) = compose.text(name, "environment/PIPEOPS_SERVER_LISTEN") {
            ensure!(probes.insert(port(address)), "two services listen at {address}");
        }
    }
    Ok(())
}

#[test]
fn the_agent_sees_nothing_of_the_control_planes_data_but_its_token_and_the_ca() -> Result<()> {
    let compose = Compose::read()?;
    for (name, _) in compose.services()? {
        let data = compose.list(name, "volumes").iter().any(|volume| volume.starts_with("control-plane:"));
        let may = ["control-plane", "agent-token"].contains(&name.as_str());
        ensure!(data == may, "{name} and the control plane's data: {data}");
    }
    ensure!(compose.list("gateway-link", "volumes") == ["agent:/run/agent:ro"], "gateway-link has more than it needs");
    let script = compose.list("agent-token", "command").join("\n");
    let folder = compose.text("agent-token", "working_dir")?;
    ensure!(
        compose.list("agent-token", "volumes").contains(&format!("agent:{folder}").as_str()),
        "not into the volume"
    );
    for key in ["PIPEOPS_TOKEN_FILE", "PIPEOPS_TLS_CA_FILE"] {
        let path = compose.text("gateway-link", &format!("environment/{key}"))?;
        let name = path.strip_prefix("/run/agent/").with_context(|| format!("{key} is {path}"))?;
        ensure!(
            script.contains(&format!(" {name}\n")) || script.contains(&format!(" {name};")),
            "nobody writes {name}"
        );
    }
    Ok(())
}

/// A run of docker/kubernetes.sh in a checkout of its own: the script writes beside itself, and a developer may have what it wrote.
async fn run_script(lab: &Lab, root: &Path) -> Result<()> {
    let script = root.join("docker/kubernetes.sh");
    if !script.exists() {
        std::fs::create_dir_all(root.join("docker"))?;
        std::fs::write(&script, file("docker/kubernetes.sh")?)?;
        std::os::unix::fs::symlink(lab::workspace().join("charts"), root.join("charts"))?;
    }
    let mut command = Command::new("sh");
    command.arg(&script).env("PATH", lab.parts().search_path()?).env("KUBECONFIG", lab.admin().kubeconfig());
    let output = command.env("HOME", root).output().await?;
    ensure!(output.status.success(), "docker/kubernetes.sh: {output:?}");
    Ok(())
}

/// What a bus says to somebody who logs in and subscribes to a subject.
async fn subscribe(address: SocketAddr, user: &str, password: &str, subject: &str) -> Result<String> {
    let mut bus = BufReader::new(TcpStream::connect(address).await?).lines();
    let login = json!({"user": user, "pass": password, "verbose": false, "pedantic": false});
    let said = format!("CONNECT {login}\r\nSUB {subject} 1\r\nPING\r\n");
    bus.get_mut().write_all(said.as_bytes()).await?;
    let mut answer = String::new();
    while let Some(line) = bus.next_line().await? {
        match line.as_str() {
            "PONG" => break,
            line if line.starts_with("INFO") => {}
            line => answer.push_str(line),
        }
    }
    Ok(answer)
}

#[tokio::test]
async fn a_cluster_and_a_bus_take_what_compose_brings() -> Result<()> {
    let compose = Compose::read()?;
    let lab = Lab::start(Options { services: false, ..Options::default() }).await?;
    let root = lab.folder().join("checkout");
    run_script(&lab, &root).await?;

    let written = root.join("docker/.local");
    ensure!(std::fs::metadata(&written)?.permissions().mode() & 0o77 == 0, "others may read {}", written.display());
    let ignored = file("docker/.gitignore")?;
    ensure!(ignored.lines().any(|line| line == ".local/"), "docker/.gitignore: {ignored}");
    let env = std::fs::read_to_string(root.join(compose.text("state-keeper", "env_file")?))?;
    ensure!(env == format!("PIPEOPS_KUBERNETES_API_URL={}\n", lab.api_url()), "{env}");
    // An agent that is there has its own identity in the namespace of the README.
    let namespace = compose.text("state-keeper", "environment/PIPEOPS_STATE_NAMESPACE")?;
    ensure!(namespace == "pipeops-local", "state-keeper would write into {namespace}");
    for service in ["proxy-executor", "route-syncer", "state-keeper"] {
        let on_host = |key: &str| -> Result<String> {
            let path = compose.text(service, &format!("environment/{key}"))?;
            let volumes = compose.list(service, "volumes");
            let mounted = |volume: &&str| {
                let (host, folder) = volume.strip_suffix(":ro")?.split_once(':')?;
                Some(root.join(host).join(path.strip_prefix(folder)?.trim_start_matches('/')).display().to_string())
            };
            volumes.iter().find_map(mounted).with_context(|| format!("{service} is not given {path}"))
        };
        let token = std::fs::read_to_string(on_host("PIPEOPS_KUBERNETES_TOKEN_FILE")?)?;
        let ca = format!("--certificate-authority={}", on_host("PIPEOPS_KUBERNETES_CA_FILE")?);
        let token = format!("--token={}", token.trim());
        // Without a kubeconfig: that would bring a certificate, which counts before a token.
        let mut command = Command::new(lab.parts().path("kubectl")?);
        command.args(["--kubeconfig=/dev/null", "--server", lab.api_url(), &ca, &token]);
        let output = command.args(["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"]).output().await?;
        let who = String::from_utf8_lossy(&output.stdout);
        ensure!(who == format!("system:serviceaccount:{namespace}:pipeops-local-{service}"), "{output:?}");
    }

    let conf =
        compose.list("nats", "volumes").into_iter().find_map(|volume| volume.strip_suffix(":/etc/nats/nats.conf:ro"));
    let conf = root.join(conf.context("nats is not given its file")?);
    let [client, monitor] = lab::free_ports()?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, client));
    let (client, monitor) = (client.to_string(), monitor.to_string());
    let args = ["-c", &conf.display().to_string(), "-a", "127.0.0.1", "-p", &client, "-m", &monitor];
    let bus = lab.add_process(Spec {
        name: "compose-nats".to_owned(),
        binary: lab.parts().path("nats-server")?.to_owned(),
        args: args.map(str::to_owned).to_vec(),
        env: BTreeMap::new(),
        folder: root.clone(),
        health: Health::Tcp(address),
        grace: SOON,
    });
    bus.start().await?;
    bus.wait_ready(SOON).await?;
    let mut passwords = BTreeMap::new();
    for (name, own, others) in [
        ("gateway-link", "pipeops.stream.io.gateway-link.>", "pipeops.state.identity.get"),
        ("proxy-executor", "pipeops.stream.open.kube", "pipeops.state.identity.get"),
        ("route-syncer", "_INBOX_route-syncer.>", "pipeops.routes.sync"),
        ("state-keeper", "pipeops.state.identity.get", "pipeops.stream.open.kube"),
    ] {
        let password = std::fs::read_to_string(root.join(compose.password_file(name)?))?;
        let answer = subscribe(address, name, &password, own).await?;
        ensure!(answer.is_empty(), "{name} may not subscribe to {own}: {answer}");
        let answer = subscribe(address, name, &password, others).await?;
        ensure!(answer.contains("Permissions Violation"), "{name} may subscribe to {others}: {answer}");
        let answer = subscribe(address, name, "wrong", own).await?;
        ensure!(answer.contains("Authorization Violation"), "{name} needs no password: {answer}");
        passwords.insert(password, name);
    }
    ensure!(passwords.len() == 4 && passwords.keys().all(|password| password.len() >= 32), "{passwords:?}");
    bus.stop().await?;

    // A bus that is up goes on with its passwords.
    let before = std::fs::read_to_string(&conf)?;
    run_script(&lab, &root).await?;
    ensure!(std::fs::read_to_string(&conf)? == before, "a second run makes another bus");
    lab.stop().await
}
