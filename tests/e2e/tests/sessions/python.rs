//! The official client of Python, as Debian packages it.

use crate::prepare;
use anyhow::{Context, Result, ensure};
use lab::{Lab, Progress};
use std::{path::Path, process::Stdio, sync::Arc, time::Duration};
use tokio::{process::Command, time::timeout};

/// The package is for this one; others may be first on `PATH`.
const PYTHON: &str = "/usr/bin/python3";
const ENDS_WITHIN: Duration = Duration::from_secs(120);

pub async fn the_python_client_sees_and_does_alike(lab: Arc<Lab>) -> Result<()> {
    lab::install_debian_packages(&["python3-kubernetes"], &Progress::slow_only()).await?;
    let namespace = "python";
    lab.create_namespace(namespace).await?;
    lab.run_pod(namespace, "box", "echo logged; sleep infinity").await?;
    prepare::echo(&lab, namespace).await?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sessions/client.py");
    let mut seen = Vec::new();
    for kubeconfig in [lab.kubeconfig_direct(), lab.kubeconfig()?] {
        let mut command = Command::new(PYTHON);
        command.arg(&script).arg(kubeconfig).arg(namespace).stdin(Stdio::null()).kill_on_drop(true);
        let output = timeout(ENDS_WITHIN, command.output()).await.context("the client does not end")??;
        let (said, complained) = (String::from_utf8(output.stdout)?, String::from_utf8_lossy(&output.stderr));
        ensure!(
            output.status.success() && said.ends_with("{\"what\": \"end\"}\n"),
            "with {}: {}\n{said}\n{complained}",
            kubeconfig.display(),
            output.status
        );
        seen.push(said);
    }
    let [straight, through] = seen.as_slice() else { anyhow::bail!("{seen:?}") };
    ensure!(straight == through, "straight\n{straight}\nthrough the agent\n{through}");
    // Alike is not enough: both might show nothing.
    for part in [r#""code": 3"#, r#""type": "DELETED""#, r#""same": true"#, r#""length": 288894"#, r#""status": "#] {
        ensure!(through.contains(part), "nothing of {part} in\n{through}");
    }
    Ok(())
}
