//! kubectl of three minors before the cluster's, which users still have.

use crate::prepare::{self, SOON};
use anyhow::{Result, ensure};
use e2e::{Step, Story, normalise};
use lab::{Lab, Lines, Parts, Progress, TOOLS_IMAGE};
use std::{path::PathBuf, sync::Arc};

const OBJECTS: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, labels: {app: shop}}
data: {colour: "green"}
---
apiVersion: v1
kind: Service
metadata: {name: front, labels: {app: shop}}
spec: {clusterIP: None, selector: {app: front}, ports: [{name: http, port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: idle, labels: {app: shop}}
spec:
  replicas: 0
  selector: {matchLabels: {app: idle}}
  template:
    metadata: {labels: {app: idle}}
    spec: {containers: [{name: main, image: "lab.local/tools:1"}]}
"#;

/// The program.
pub async fn kubectl() -> Result<PathBuf> {
    let parts = Parts::only("kubectl-1.33", &Progress::slow_only()).await?;
    Ok(parts.path("kubectl-1.33")?.to_owned())
}

pub async fn an_older_kubectl_does_alike(lab: Arc<Lab>) -> Result<()> {
    let namespace = "older";
    lab.create_namespace(namespace).await?;
    let kubectl = |line: &str| Step::kubectl(&format!("{line} -n {namespace}"));
    let changed = OBJECTS.replace("green", "red");
    let run = format!("-n {namespace} run one --image={TOOLS_IMAGE} --restart=Never --quiet -i --rm -- sh -c");
    let run_box = format!("-n {namespace} run box --image={TOOLS_IMAGE} --restart=Never -- sh -c");
    let mut steps = vec![
        // It warns of the minors between them.
        Step::kubectl("version"),
        kubectl("apply -f -").input(OBJECTS),
        kubectl("diff -f -").input(&changed).ends_with(1),
        kubectl("apply -f -").input(&changed),
        kubectl("apply --server-side --force-conflicts -f -").input(OBJECTS),
        kubectl("get configmap/settings service/front deployment/idle -o wide"),
        kubectl("get configmap settings -o yaml"),
        kubectl("describe configmap settings"),
        kubectl("explain deployment.spec.replicas"),
        kubectl("label configmap settings tier=back"),
        kubectl("patch configmap settings -p '{\"data\":{\"a\":\"b\"}}'"),
        kubectl("scale deployment idle --replicas=0"),
        kubectl("auth can-i delete pods"),
        kubectl("get pods absent").ends_with(1),
        kubectl("delete configmap,service,deployment -l app=shop"),
        Step::kubectl(&format!("{run} 'read line; echo got $line; exit 5'")).input("a line\n").ends_with(5),
        Step::kubectl(&format!("{run_box} 'seq 1 20000; sleep infinity'")),
        kubectl("wait --for=condition=Ready pod/box --timeout=60s"),
    ];
    let lines: String = (0..20_000).map(|number| format!("line {number}\n")).collect();
    for websockets in ["true", "false"] {
        let exec = |rest: &str| {
            let step = Step::kubectl(&format!("exec -n {namespace} {rest}"));
            step.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets)
        };
        steps.extend([
            exec("box -- sh -c 'echo out; echo err >&2; exit 3'").ends_with(3),
            exec("-i box -- cat").input(&lines),
            exec("box -- sh -c 'seq 1 50000; seq 1 1000 >&2'"),
            exec("box -- /absent").ends_with(1),
            exec("absent -- true").ends_with(1),
        ]);
    }
    steps.extend([
        kubectl("logs box"),
        kubectl("logs box --tail=3"),
        kubectl("logs box --previous").ends_with(1),
        kubectl("attach absent").ends_with(1),
        kubectl("delete pod box --now"),
    ]);
    Story::new(steps).with_kubectl(&self::kubectl().await?).same_both_ways(&lab).await
}

pub async fn an_older_kubectl_goes_on_alike(lab: Arc<Lab>) -> Result<()> {
    let namespace = "older-goes-on";
    lab.create_namespace(namespace).await?;
    prepare::talker(&lab, namespace).await?;
    let older = kubectl().await?;
    let (straight, through) = (lab.direct().with_program(&older), lab.proxied()?.with_program(&older));
    let watch = ["get", "configmaps", "-n", namespace, "-w", "--output-watch-events", "--no-headers"];
    let follow = ["logs", "-f", prepare::TALKER, "-n", namespace];
    let mut watches = [Lines::of(&straight, &watch)?, Lines::of(&through, &watch)?];
    let mut follows = [Lines::of(&straight, &follow)?, Lines::of(&through, &follow)?];
    let (there, back) = (lab.folder().join("older-there"), lab.folder().join("older-back"));
    let content: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(&there, &content)?;
    let file = format!("{namespace}/{}:/tmp/file", prepare::TALKER);

    same(&mut watches, "ADDED").await?;
    for tool in [&straight, &through] {
        tool.stdout(&["create", "configmap", "one", "--from-literal=a=b", "-n", namespace]).await?;
        same(&mut watches, "ADDED").await?;
        tool.stdout(&["delete", "configmap", "one", "-n", namespace]).await?;
        same(&mut watches, "DELETED").await?;
        prepare::attach(tool, namespace).await?;
        same(&mut follows, "got x").await?;
        tool.stdout(&["cp", &there.display().to_string(), &file]).await?;
        tool.stdout(&["cp", "--retries=0", &file, &back.display().to_string()]).await?;
        ensure!(std::fs::read(&back)? == content, "a copied file is changed");
        std::fs::remove_file(&back)?;
        tool.stdout(&["exec", prepare::TALKER, "-n", namespace, "--", "rm", "/tmp/file"]).await?;
    }
    Ok(())
}

/// The next line both ways.
async fn same([straight, through]: &mut [Lines; 2], begins: &str) -> Result<()> {
    let (straight, through) = (straight.next(SOON).await?, through.next(SOON).await?);
    let (straight, through) = (normalise(&straight), normalise(&through));
    ensure!(straight == through, "straight {straight:?}, through the agent {through:?}");
    ensure!(through.starts_with(begins), "{through:?} instead of {begins}");
    Ok(())
}
