//! helm with a small chart of its own.

use anyhow::Result;
use e2e::{Step, Story};
use lab::Lab;
use std::{fs, path::Path, sync::Arc};

const FILES: [(&str, &str); 4] = [
    ("Chart.yaml", "{apiVersion: v2, name: small, version: 0.1.0, appVersion: '7', description: Two objects.}"),
    ("values.yaml", "{colour: green, replicas: 0}"),
    (
        "templates/objects.yaml",
        r#"apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .Release.Name }}
data:
  colour: {{ .Values.colour | quote }}
  kubernetes: {{ .Capabilities.KubeVersion.Version }}
  deployments: {{ .Capabilities.APIVersions.Has "apps/v1/Deployment" | quote }}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ .Release.Name }}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: {{ .Release.Name }}}}
  template:
    metadata: {labels: {app: {{ .Release.Name }}}}
    spec: {containers: [{name: main, image: "example.com/main:{{ .Chart.AppVersion }}"}]}
"#,
    ),
    ("templates/NOTES.txt", "{{ .Release.Name }} is {{ .Values.colour }}, revision {{ .Release.Revision }}."),
];

fn write(folder: &Path) -> Result<()> {
    for (name, text) in FILES {
        let file = folder.join(name);
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(file, text)?;
    }
    Ok(())
}

pub async fn helm_installs_upgrades_rolls_back_and_uninstalls_alike(lab: Arc<Lab>) -> Result<()> {
    lab.create_namespace("charts").await?;
    let folder = lab.folder().join("small");
    write(&folder)?;
    let chart = folder.display();
    let helm = |line: String| Step::helm(&format!("{line} -n charts"));
    let kubectl = |line: &str| Step::kubectl(&format!("{line} -n charts"));
    Story::new([
        helm("list".into()),
        helm(format!("install shop {chart} --wait --timeout=60s")),
        helm(format!("install shop {chart}")).ends_with(1),
        helm("list -o yaml".into()),
        helm("status shop".into()),
        helm("get values shop --all".into()),
        kubectl("get configmap shop -o yaml"),
        helm(format!("upgrade shop {chart} --set colour=blue --wait --timeout=60s")),
        helm("history shop".into()),
        kubectl("get configmap shop -o jsonpath={.data.colour}"),
        helm(format!("upgrade shop {chart} --set replicas=many")).ends_with(1),
        helm("history shop".into()),
        helm("rollback shop 1 --wait --timeout=60s".into()),
        kubectl("get configmap shop -o jsonpath={.data.colour}"),
        helm("history shop -o json".into()),
        helm("get manifest shop".into()),
        helm(format!("template shop {chart} --validate")),
        helm("list".into()),
        helm("uninstall shop --wait".into()),
        helm("uninstall shop".into()).ends_with(1),
        helm("list --all".into()),
        kubectl("get configmaps,secrets,deployments"),
    ])
    .same_both_ways(&lab)
    .await
}
