//! The Dockerfile and docker-compose.yaml speak of the workspace as it is: its binaries, their settings and their ports.

use anyhow::{Context, Result, ensure};
use lab::{Lab, Options};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use tokio::process::Command;

/// Every service with the environment variables it reads and their defaults.
fn services() -> BTreeMap<&'static str, BTreeMap<String, String>> {
    BTreeMap::from([
        ("control-plane", variables(&runtime::settings_help::<control_plane::Options>())),
        ("gateway-link", variables(&runtime::settings_help::<gateway_link::Options>())),
        ("proxy-executor", variables(&runtime::settings_help::<proxy_executor::Options>())),
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
        ensure!(build.contains(&format!(" target/release/{name} ")), "{name} is not kept");
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
        let on_host = ["proxy-executor", "state-keeper"].contains(&binary);
        ensure!(on_host == service.pointer("/env_file").is_some(), "{name} and the address of the API server");
        if on_host {
            let written = file("docker/kubernetes.sh")?;
            let keys = written.split("printf '").skip(1).filter_map(|text| text.split_once('=')).map(|(key, _)| key);
            for key in keys {
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

    let nats = file("docker/nats.conf")?;
    let bus = nats.lines().find_map(|line| line.strip_prefix("listen: ")).context("nats.conf has no listen")?;
    let bus = port(bus.trim_matches('"'));
    ensure!(compose.list("nats", "ports").iter().any(|published| port(published) == bus), "the bus is not published");
    let part = lab::PARTS.iter().find(|part| part.name == "nats-server").context("no such part")?;
    ensure!(
        compose.text("nats", "image")?.contains(part.version),
        "the lab runs NATS {}, docker-compose.yaml {}",
        part.version,
        compose.text("nats", "image")?
    );
    let mut probes = BTreeSet::new();
    for name in ["gateway-link", "proxy-executor", "state-keeper"] {
        let url = compose.text(name, "environment/PIPEOPS_BUS_URL")?;
        ensure!(port(url) == bus, "{name} looks for the bus at {url}");
        ensure!(compose.text(name, "environment/PIPEOPS_BUS_USER")? == name, "{name} is another user of the bus");
        let secret = format!("{name}-password");
        let path = compose.text(name, "environment/PIPEOPS_BUS_PASSWORD_FILE")?;
        ensure!(path == format!("/run/secrets/{secret}"), "{name} reads its password from {path}");
        ensure!(compose.list(name, "secrets") == [secret.as_str()], "{name} is not given {secret}");
        let source = compose.0.pointer(&format!("/secrets/{secret}/file")).and_then(Value::as_str);
        let password = file(source.with_context(|| format!("no secret {secret}"))?)?;
        let user = format!(r#"{{ user: "{name}", password: "{password}" }}"#);
        ensure!(nats.contains(&user), "docker/nats.conf has no {user}");
        // Two of them are on the host's network.
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

#[tokio::test]
async fn a_cluster_and_a_bus_take_what_compose_brings() -> Result<()> {
    let lab = Lab::start(Options { services: false, ..Options::default() }).await?;
    let path = lab.parts().search_path()?;
    // The script writes beside itself, and a developer may have what it wrote in the checkout.
    let root = lab.folder().join("checkout");
    std::fs::create_dir_all(root.join("docker"))?;
    let script = root.join("docker/kubernetes.sh");
    std::fs::write(&script, file("docker/kubernetes.sh")?)?;
    std::os::unix::fs::symlink(lab::workspace().join("charts"), root.join("charts"))?;
    let mut command = Command::new("sh");
    command.arg(&script).env("PATH", &path).env("KUBECONFIG", lab.admin().kubeconfig()).env("HOME", &root);
    let output = command.output().await?;
    ensure!(output.status.success(), "docker/kubernetes.sh: {output:?}");

    let written = root.join("docker/.kubernetes");
    let env = std::fs::read_to_string(written.join("env"))?;
    ensure!(env == format!("PIPEOPS_KUBERNETES_API_URL={}\n", lab.api_url()), "{env}");
    let ca = written.join("files/ca.crt").display().to_string();
    for service in ["proxy-executor", "state-keeper"] {
        let token = std::fs::read_to_string(written.join(format!("files/{service}.token")))?;
        let (ca, token) = (format!("--certificate-authority={ca}"), format!("--token={}", token.trim()));
        // Without a kubeconfig: that would bring a certificate, which counts before a token.
        let mut command = Command::new(lab.parts().path("kubectl")?);
        command.args(["--kubeconfig=/dev/null", "--server", lab.api_url(), &ca, &token]);
        let output = command.args(["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"]).output().await?;
        let who = String::from_utf8_lossy(&output.stdout);
        ensure!(who == format!("system:serviceaccount:pipeops-system:pipeops-local-{service}"), "{output:?}");
    }

    let mut command = Command::new(lab.parts().path("nats-server")?);
    let output = command.arg("-t").arg("-c").arg(lab::workspace().join("docker/nats.conf")).output().await?;
    ensure!(output.status.success(), "docker/nats.conf: {output:?}");
    lab.stop().await
}
