//! Running kubectl and helm.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
};

/// Nothing that a test waits for to end takes longer.
const LIMIT: Duration = Duration::from_secs(120);

/// What a program printed and how it ended.
#[derive(Clone, Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its stdout.
    pub stdout: String,
    /// Its stderr.
    pub stderr: String,
}

impl Output {
    /// Whether it ended with 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status.success()
    }
}

/// A program bound to a kubeconfig.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Tool {
    binary: PathBuf,
    kubeconfig: PathBuf,
    home: PathBuf,
    env: BTreeMap<String, String>,
}

impl Tool {
    /// `home` is where the program may keep its caches: the user's own stay as they are.
    pub(crate) fn new(binary: &Path, kubeconfig: &Path, home: &Path) -> Self {
        Self {
            binary: binary.to_owned(),
            kubeconfig: kubeconfig.to_owned(),
            home: home.to_owned(),
            env: BTreeMap::new(),
        }
    }

    /// Another program in its place, with the same kubeconfig.
    #[must_use]
    pub fn with_program(&self, binary: &Path) -> Self {
        Self { binary: binary.to_owned(), ..self.clone() }
    }

    /// The same with one more variable in its environment.
    #[must_use]
    pub fn with_env(mut self, key: &str, value: &str) -> Self {
        self.env.insert(key.to_owned(), value.to_owned());
        self
    }

    /// The kubeconfig it is bound to.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The command, for what the calls below do not do. It ends with its handle.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(args)
            .env("KUBECONFIG", &self.kubeconfig)
            // The user's own preferences would change what the commands print.
            .env("KUBERC", "off")
            .env("KUBECACHEDIR", self.home.join("kube-cache"))
            .env("HELM_CACHE_HOME", self.home.join("helm-cache"))
            .env("HELM_CONFIG_HOME", self.home.join("helm-config"))
            .env("HELM_DATA_HOME", self.home.join("helm-data"))
            .envs(&self.env)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Starts it with pipes for stdout and stderr, for what goes on (`get -w`, `logs -f`, `port-forward`).
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn spawn(&self, args: &[&str]) -> Result<Child> {
        let mut command = self.command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().with_context(|| format!("cannot run {}", self.binary.display()))
    }

    /// Runs it to its end, whatever that is.
    ///
    /// # Errors
    /// When it cannot be run or does not end within two minutes.
    pub async fn run(&self, args: &[&str]) -> Result<Output> {
        self.run_with_input(args, "").await
    }

    /// As [`Tool::run`], with text for its stdin.
    ///
    /// # Errors
    /// As [`Tool::run`].
    pub async fn run_with_input(&self, args: &[&str], input: &str) -> Result<Output> {
        let what = || format!("{} {}", self.binary.display(), args.join(" "));
        let mut command = self.command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        if !input.is_empty() {
            command.stdin(Stdio::piped());
        }
        let work = async {
            let mut child = command.spawn()?;
            let stdin = child.stdin.take();
            let feed = async {
                if let Some(mut stdin) = stdin {
                    // A program that ends without reading all of it says why itself.
                    drop(stdin.write_all(input.as_bytes()).await);
                }
            };
            let ((), output) = tokio::join!(feed, child.wait_with_output());
            output
        };
        let output = tokio::time::timeout(LIMIT, work)
            .await
            .with_context(|| format!("{} does not end", what()))?
            .with_context(|| format!("cannot run {}", what()))?;
        Ok(Output {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs it and gives its stdout.
    ///
    /// # Errors
    /// As [`Tool::run`], and when it ends with another status than 0; the message has its stderr.
    pub async fn stdout(&self, args: &[&str]) -> Result<String> {
        self.stdout_with_input(args, "").await
    }

    /// As [`Tool::stdout`], with text for its stdin.
    ///
    /// # Errors
    /// As [`Tool::stdout`].
    pub async fn stdout_with_input(&self, args: &[&str], input: &str) -> Result<String> {
        let output = self.run_with_input(args, input).await?;
        if !output.success() {
            bail!(
                "{} {} ended with {}: {}{}",
                self.binary.file_name().unwrap_or_default().display(),
                args.join(" "),
                output.status,
                output.stderr.trim(),
                output.stdout.trim()
            );
        }
        Ok(output.stdout)
    }
}
