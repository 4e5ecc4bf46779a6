//! The Dockerfile and docker-compose.yaml in a real Docker engine, up to a kubectl through what compose runs.

use anyhow::{Context, Result, ensure};
use lab::{Docker, Lab, Options, Parts, Progress, until};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

const SOON: Duration = Duration::from_secs(60);
/// Of an image with all that is in it.
const LARGEST: u64 = 40_000_000;

/// What of the repository docker-compose.yaml and its script use, with programs that are built already.
struct Checkout<'a> {
    docker: &'a Docker,
    compose: &'a Path,
    root: PathBuf,
}

impl<'a> Checkout<'a> {
    /// All of it in the lab's folder: the engine's machine may not see that of the repository.
    fn make(lab: &'a Lab, compose: &'a Path, programs: &BTreeMap<String, PathBuf>) -> Result<Self> {
        let checkout = Self { docker: lab.docker()?, compose, root: lab.folder().join("checkout") };
        let root = &checkout.root;
        fs::create_dir_all(root.join("target/dist"))?;
        let mut copy = Command::new("cp");
        copy.arg("-r").args(["charts", "docker", "docker-compose.yaml"]).arg(root).current_dir(lab::workspace());
        ensure!(copy.status()?.success(), "{copy:?}");
        let own = root.join("docker/.local");
        if own.exists() {
            fs::remove_dir_all(own).context("cannot remove what a run of the developer's has left")?;
        }
        for (name, program) in programs {
            // The profile `dist` leaves no more in its programs, and makes smaller ones of it.
            let mut strip = Command::new("strip");
            strip.arg("--strip-debug").arg("-o").arg(root.join("target/dist").join(name)).arg(program);
            ensure!(strip.status()?.success(), "{strip:?}");
        }
        Ok(checkout)
    }

    async fn run(&self, mut command: Command) -> Result<String> {
        command.current_dir(&self.root);
        self.docker.run(command).await
    }

    async fn compose(&self, args: &[&str]) -> Result<String> {
        let mut command = self.docker.command(self.compose);
        command.args(["--progress", "plain"]).args(args);
        command.envs([
            ("BINARIES", "prebuilt"),
            ("RUST_IMAGE", Docker::BUILD_IMAGE),
            ("RUNTIME_IMAGE", Docker::RUNTIME_IMAGE),
        ]);
        self.run(command).await
    }

    async fn docker(&self, args: &[&str]) -> Result<String> {
        let mut command = self.docker.command("docker");
        command.args(args);
        Ok(self.run(command).await?.trim().to_owned())
    }

    /// Small, of an ordinary user, and with a program that starts.
    async fn look_at_image(&self, name: &str) -> Result<()> {
        let image = format!("pipeops/{name}:local");
        let shown = self.docker(&["image", "inspect", "--format", "{{.Size}} {{.Config.User}}", &image]).await?;
        let (size, user) = shown.split_once(' ').with_context(|| format!("{image}: {shown}"))?;
        ensure!(size.parse::<u64>()? <= LARGEST, "{image} has {size} bytes");
        ensure!(user == "65532:65532", "{image} runs as {user:?}");
        let said = self.docker(&["run", "--rm", "--read-only", "--network=none", &image, "--version"]).await?;
        ensure!(said.starts_with(&format!("{name} ")), "{image} says {said:?}");
        Ok(())
    }
}

#[tokio::test]
async fn kubectl_reaches_a_cluster_through_images_of_the_dockerfile_run_by_compose() -> Result<()> {
    let progress = Progress::slow_only();
    let programs = lab::services(&progress).await?;
    let parts = Parts::only("docker-compose", &progress).await?;
    let lab = Lab::start(Options { services: false, docker: true, ..Options::default() }).await?;
    let checkout = Checkout::make(&lab, parts.path("docker-compose")?, &programs)?;
    checkout.docker.load_images(programs.values().next().context("there are no services")?).await?;

    checkout.compose(&["build"]).await?;
    for name in programs.keys() {
        checkout.look_at_image(name).await?;
    }

    // What a developer does, as the script and the file say it.
    let mut script = checkout.docker.command("docker/kubernetes.sh");
    script.env("KUBECONFIG", lab.admin().kubeconfig());
    for (key, value) in [("group", "developers"), ("clusterRole", "view")] {
        script.arg("--set").arg(format!("proxy-executor.rbac.bindings[0].{key}={value}"));
    }
    checkout.run(script).await?;
    checkout.compose(&["up", "--detach"]).await?;
    let create = ["control-plane", "token", "create", "--user", "me", "--group", "developers"];
    let token = checkout.compose(&[["exec", "-T", "control-plane"].as_slice(), &create].concat()).await?;
    checkout.compose(&["cp", "control-plane:/var/lib/pipeops/tls/ca.crt", "ca.crt"]).await?;

    let url = "https://127.0.0.1:8443/api/v1/clusters/agent/local/proxy";
    let kubectl = |args: &[&str]| {
        let mut kubectl = checkout.docker.command("kubectl");
        kubectl.args([
            "--kubeconfig=/dev/null",
            "--certificate-authority=ca.crt",
            "--server",
            url,
            "--token",
            token.trim(),
        ]);
        kubectl.args(args);
        checkout.run(kubectl)
    };
    let namespaces = until("kubectl through compose", SOON, || kubectl(&["get", "namespaces", "-o", "name"])).await;
    let namespaces = match namespaces {
        Ok(namespaces) => namespaces,
        // They go with the containers.
        Err(error) => return Err(error.context(checkout.compose(&["logs"]).await?)),
    };
    ensure!(namespaces.lines().any(|line| line == "namespace/pipeops-local"), "{namespaces}");
    let who = kubectl(&["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"]).await?;
    ensure!(who == "me", "the cluster takes the user for {who:?}");
    let secrets = kubectl(&["get", "secrets", "-A"]).await;
    ensure!(secrets.as_ref().is_err_and(|error| format!("{error:#}").contains("Forbidden")), "{secrets:?}");

    let containers = checkout.docker(&["ps", "--all", "--quiet"]).await?;
    let inspect = ["inspect", "--format", "{{.Name}} {{.RestartCount}} {{.State.ExitCode}}"];
    let states = checkout.docker(&inspect.into_iter().chain(containers.lines()).collect::<Vec<_>>()).await?;
    // Each service, the bus, and the one that makes the agent's token.
    ensure!(
        states.lines().count() == programs.len() + 2 && states.lines().all(|state| state.ends_with(" 0 0")),
        "{states}"
    );

    checkout.compose(&["down", "--volumes"]).await?;
    for (kind, list) in [("containers", ["ps", "--all"]), ("volumes", ["volume", "ls"])] {
        let left = checkout.docker(&[list.as_slice(), &["--quiet"]].concat()).await?;
        ensure!(left.is_empty(), "compose leaves {kind}: {left}");
    }
    let networks = checkout.docker(&["network", "ls", "--quiet", "--filter", "type=custom"]).await?;
    ensure!(networks.is_empty(), "compose leaves networks: {networks}");
    lab.stop().await
}
