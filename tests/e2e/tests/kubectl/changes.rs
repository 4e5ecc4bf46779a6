//! Commands that change objects.

use crate::objects::OBJECTS;
use anyhow::Result;
use e2e::{Step, Story};
use lab::Lab;
use std::sync::Arc;

const CHANGED: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, labels: {app: shop, tier: back}}
data: {colour: "blue", text: "two\nlines"}
"#;

pub async fn objects_are_changed_alike_in_every_way(lab: Arc<Lab>) -> Result<()> {
    lab.create_namespace("changes").await?;
    let kubectl = |line: &str| Step::kubectl(&format!("{line} -n changes"));
    Story::new([
        kubectl("diff -f -").input(CHANGED).ends_with(1),
        kubectl("apply -f -").input(OBJECTS),
        kubectl("apply -f -").input(OBJECTS),
        kubectl("diff -f -").input(OBJECTS),
        kubectl("diff -f -").input(CHANGED).ends_with(1),
        kubectl("apply -f - --dry-run=server -o yaml").input(CHANGED),
        kubectl("apply -f -").input(CHANGED),
        kubectl("get configmap settings -o yaml"),
        kubectl("create configmap settings").ends_with(1),
        kubectl("create -f -").input(CHANGED).ends_with(1),
        kubectl("replace -f -").input(CHANGED),
        kubectl("create configmap made --from-literal=a=b -o yaml"),
        kubectl("patch configmap made -p '{\"data\":{\"a\":\"c\"}}'"),
        kubectl("patch configmap made --type=merge -p '{\"data\":{\"a\":null,\"x\":\"y\"}}' -o yaml"),
        kubectl("patch configmap made --type=json -p '[{\"op\":\"replace\",\"path\":\"/data/x\",\"value\":\"z\"}]'"),
        kubectl("patch configmap made -p '{\"data\":{\"x\":\"z\"}}'"),
        kubectl("get configmap made -o jsonpath={.data}"),
        kubectl("label configmap made one=two"),
        kubectl("label configmap made one=three").ends_with(1),
        kubectl("label configmap made one=three --overwrite"),
        kubectl("annotate configmap --all note=seen"),
        kubectl("set image deployment/idle main=example.com/main:2"),
        kubectl("set env deployment/idle A=c B=d"),
        kubectl("scale deployment/idle --replicas=0"),
        kubectl("autoscale deployment/idle --min=1 --max=2 --cpu=50%"),
        kubectl("create role writer --verb=create,update --resource=configmaps,deployments.apps"),
        kubectl("create rolebinding writer --role=writer --user=alice"),
        kubectl("create token default --duration=10s --dry-run=client").ends_with(1),
        kubectl("get configmaps,roles,rolebindings,hpa --show-labels"),
        kubectl("delete configmap made --dry-run=server"),
        kubectl("delete configmap made absent --ignore-not-found"),
        kubectl("delete hpa,role,rolebinding,configmap -l app!=shop --field-selector metadata.name!=kube-root-ca.crt"),
        kubectl("delete -f - --wait --cascade=foreground").input(OBJECTS),
        kubectl("delete -f -").input(OBJECTS).ends_with(1),
        kubectl("get all,configmaps,secrets,roles,rolebindings,ingresses"),
    ])
    .same_both_ways(&lab)
    .await
}

pub async fn server_side_apply_and_its_conflicts_are_alike(lab: Arc<Lab>) -> Result<()> {
    lab.create_namespace("owners").await?;
    let kubectl = |line: &str| Step::kubectl(&format!("{line} -n owners"));
    Story::new([
        kubectl("apply --server-side -f -").input(OBJECTS),
        kubectl("apply --server-side -f -").input(OBJECTS),
        kubectl("apply --server-side --field-manager=other -f -").input(CHANGED).ends_with(1),
        kubectl("diff --server-side --field-manager=other --force-conflicts -f -").input(CHANGED).ends_with(1),
        kubectl("apply --server-side --field-manager=other --force-conflicts -f -").input(CHANGED),
        kubectl("get configmap settings -o yaml --show-managed-fields"),
        kubectl("apply --server-side --dry-run=server -o json -f -").input(CHANGED),
        kubectl("delete -f -").input(OBJECTS),
    ])
    .same_both_ways(&lab)
    .await
}

const DEFINITION: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: ships.harbour.example.com}
spec:
  group: harbour.example.com
  scope: Namespaced
  names: {plural: ships, singular: ship, kind: Ship, shortNames: [sh], categories: [fleet]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.masts, statusReplicasPath: .status.masts}}
    additionalPrinterColumns: [{name: Masts, type: integer, jsonPath: .spec.masts}]
    schema:
      openAPIV3Schema:
        type: object
        description: A ship.
        properties:
          spec:
            type: object
            required: [masts]
            properties: {masts: {type: integer, minimum: 1, description: How many masts it has.}}
          status: {type: object, properties: {masts: {type: integer}, at: {type: string}}}
"#;

const SHIP: &str = "{apiVersion: harbour.example.com/v1, kind: Ship, metadata: {name: eagle}, spec: {masts: 3}}";
const RAFT: &str = "{apiVersion: harbour.example.com/v1, kind: Ship, metadata: {name: raft}, spec: {masts: 0}}";

pub async fn definitions_and_their_objects_are_alike(lab: Arc<Lab>) -> Result<()> {
    lab.create_namespace("harbour").await?;
    let kubectl = |line: &str| Step::kubectl(&format!("{line} -n harbour"));
    Story::new([
        kubectl("api-resources"),
        kubectl("apply -f -").input(DEFINITION),
        kubectl("wait --for=condition=Established crd/ships.harbour.example.com --timeout=30s"),
        // What it prints of the types depends on when their schema is published: the API server's business, not ours.
        kubectl("get --raw /apis/harbour.example.com/v1"),
        kubectl("apply -f - --validate=ignore").input(SHIP),
        kubectl("apply -f - --validate=ignore").input(RAFT).ends_with(1),
        kubectl("get ships"),
        kubectl("get fleet -o yaml"),
        kubectl("get sh eagle -o jsonpath={.spec.masts}"),
        kubectl("patch ship eagle --type=merge -p '{\"spec\":{\"masts\":4}}'"),
        kubectl("patch ship eagle --type=strategic -p '{\"spec\":{\"masts\":4}}'").ends_with(1),
        kubectl("patch ship eagle --subresource=status --type=merge -p '{\"status\":{\"at\":\"sea\",\"masts\":4}}'"),
        kubectl("wait --for=jsonpath={.status.at}=sea ship/eagle --timeout=10s"),
        kubectl("scale ship/eagle --replicas=2"),
        kubectl("get ship eagle -o wide"),
        kubectl("delete ship eagle"),
        kubectl("delete crd ships.harbour.example.com"),
        kubectl("get --raw /apis/harbour.example.com/v1").ends_with(1),
    ])
    .same_both_ways(&lab)
    .await
}
