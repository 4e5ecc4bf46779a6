//! A node that is to go.

use anyhow::{Result, ensure};
use e2e::{Step, Story};
use lab::Lab;
use std::sync::Arc;

pub async fn a_node_is_cordoned_tainted_and_drained_alike(lab: Arc<Lab>) -> Result<()> {
    let namespace = "drains";
    lab.create_namespace(namespace).await?;
    let mut seen = Vec::new();
    for (tool, name) in [(lab.direct(), "first"), (lab.proxied()?, "second")] {
        lab.run_pod(namespace, name, "trap 'exit 0' TERM; while :; do sleep 0.2; done").await?;
        let selector = format!("--pod-selector=run={name}");
        let drained = tool.run(&["drain", "lab", &selector, "--force", "--ignore-daemonsets", "--timeout=60s"]).await;
        let cordoned = lab.admin().stdout(&["get", "node", "lab", "-o", "jsonpath={.spec.unschedulable}"]).await;
        // The next test's pods would wait for it.
        lab.admin().stdout(&["uncordon", "lab"]).await?;
        let (drained, cordoned) = (drained?, cordoned?);
        let left = lab.admin().stdout(&["get", "pods", "-n", namespace, "-o", "name"]).await?;
        ensure!(drained.success() && cordoned == "true" && left.is_empty(), "{drained:?} {cordoned} {left}");
        seen.push(format!("{}{}", drained.stdout, drained.stderr).replace(name, "NAME"));
    }
    let [straight, through] = seen.as_slice() else { anyhow::bail!("{seen:?}") };
    ensure!(straight == through && straight.contains("pod/NAME evicted"), "straight {straight}\nthrough {through}");
    let marked = Story::new([
        Step::kubectl("cordon lab"),
        Step::kubectl("cordon lab"),
        Step::kubectl("uncordon lab"),
        Step::kubectl("taint node lab pipeops.io/test=here:PreferNoSchedule"),
        Step::kubectl("taint node lab pipeops.io/test=here:PreferNoSchedule").ends_with(1),
        Step::kubectl("taint node lab pipeops.io/test-"),
        Step::kubectl("drain absent").ends_with(1),
    ])
    .same_both_ways(&lab)
    .await;
    lab.admin().stdout(&["uncordon", "lab"]).await?;
    marked
}
