//! Commands that only read.

use crate::objects::OBJECTS;
use anyhow::Result;
use e2e::{Step, Story};
use lab::{Lab, until};
use std::{sync::Arc, time::Duration};

const SETTLED_WITHIN: Duration = Duration::from_secs(30);

fn story(lines: &[&str]) -> Story {
    Story::new(lines.iter().map(|line| Step::kubectl(line)))
}

pub async fn objects_are_shown_alike_in_every_format(lab: Arc<Lab>) -> Result<()> {
    lab.create_namespace("reads").await?;
    lab.admin().stdout_with_input(&["apply", "-n", "reads", "-f", "-"], OBJECTS).await?;
    // From then on the deployment's controller has nothing more to write.
    until("the deployment to be settled", SETTLED_WITHIN, || async {
        lab.admin().stdout(&["rollout", "status", "deployment/idle", "-n", "reads", "--timeout=5s"]).await
    })
    .await?;
    story(&[
        "get configmaps,secrets,services,deployments,ingresses,roles -n reads",
        "get all -n reads -o wide",
        "get all -n reads --show-labels",
        "get configmap,secret -n reads -o yaml",
        "get deployment idle -n reads -o json --show-managed-fields",
        "get all -n reads -o name",
        "get configmaps -n reads --no-headers -l tier=back",
        "get configmaps -n reads -l app=shop,tier!=back -o jsonpath={.items[*].metadata.name}",
        "get configmaps -n reads --field-selector metadata.name=more",
        "get configmaps -n reads --sort-by=.metadata.name -o custom-columns=NAME:.metadata.name,DATA:.data",
        "get configmap settings -n reads -o go-template='{{range $k, $v := .data}}{{$k}}={{$v}};{{end}}'",
        "get configmap settings more -n reads",
        "get deployments -n reads -o wide --server-print=false",
        "get configmaps -n reads --chunk-size=1",
        "get nothing-here -n reads --ignore-not-found -o name --help",
        "describe configmap,secret,service,deployment,ingress,role -n reads",
        "get pods -n absent",
        "get namespaces reads default",
        "get clusterroles system:basic-user view -o yaml",
        "get --raw /api/v1/namespaces/reads/configmaps/settings",
        "get --raw /api/v1/namespaces/reads/configmaps?limit=500",
        "get --raw /apis/apps/v1/namespaces/reads/deployments?labelSelector=app%3Dshop",
        "rollout history deployment/idle -n reads",
        "events -n reads",
        "create configmap tried -n reads --from-literal=a=b --dry-run=server -o yaml",
        "auth can-i create deployments -n reads",
        "auth can-i '*' '*' --all-namespaces",
        "auth can-i --list -n reads",
        "get deployments -n reads -w --watch-only --request-timeout=1s",
    ])
    .same_at_once(&lab)
    .await
}

pub async fn what_the_api_says_of_itself_is_alike(lab: Arc<Lab>) -> Result<()> {
    story(&[
        "version -o yaml",
        "api-versions",
        "explain deployment.spec.strategy",
        "explain pod --recursive",
        "explain ingress.spec --api-version=networking.k8s.io/v1 --output=plaintext-openapiv2",
        "api-resources --api-group=apps -o wide",
        "api-resources --namespaced=false --verbs=list,get --api-group=",
        "get --raw /",
        "get --raw /version",
        "get --raw /api",
        "get --raw /api/v1",
        "get --raw /readyz?verbose",
        "get --raw /openapi/v3/apis/batch/v1",
        "get --raw /openapi/v2?timeout=32s",
        "get --raw /.well-known/openid-configuration",
        "auth whoami -o jsonpath='{.status.userInfo.username} {.status.userInfo.groups}'",
    ])
    .same_at_once(&lab)
    .await
}

pub async fn errors_of_the_api_are_alike(lab: Arc<Lab>) -> Result<()> {
    let failing = [
        "get configmap absent -n default",
        "get nonsense",
        "get --raw /absent",
        "get --raw /api/v1/namespaces/default/configmaps?limit=nonsense",
        "get pods --field-selector spec.absent=1",
        "explain pod.spec.absent",
        "delete configmap absent -n default",
        "label configmap absent a=b -n default",
        "create namespace default",
        "create namespace Not_A_Name",
        "patch namespace default -p '{\"metadata\":{\"labels\":{\"a b\":\"c\"}}}'",
        "patch namespace default --type=json -p '[{\"op\":\"test\",\"path\":\"/kind\",\"value\":\"x\"}]'",
        "logs absent -n default",
        "exec absent -n default -- true",
        "rollout status deployment/absent -n default",
        "wait --for=condition=Ready pod/absent -n default --timeout=5s",
        "auth can-i create nonsense.example.com --as-group=a --quiet=false --subresource=x --list=false --all-namespaces=true -n x",
    ];
    let steps = failing.iter().map(|line| Step::kubectl(line).ends_with(1));
    let invalid = Step::kubectl("create -n default -f -")
        .input("{apiVersion: v1, kind: Service, metadata: {name: bad}, spec: {ports: [{port: 99999}]}}")
        .ends_with(1);
    let unknown_field = Step::kubectl("apply -n default --dry-run=server -f -")
        .input("{apiVersion: v1, kind: ConfigMap, metadata: {name: bad}, dta: {}}")
        .ends_with(1);
    Story::new(steps.chain([invalid, unknown_field])).same_at_once(&lab).await
}
