//! Who may do what, asked of the API server itself.

use anyhow::{Context, Result, ensure};
use lab::Lab;
use std::{collections::BTreeSet, sync::Arc};

const NAMESPACE: &str = "pipeops-system";

fn account(service: &str) -> String {
    format!("--as=system:serviceaccount:{NAMESPACE}:pipeops-agent-{service}")
}

/// What `kubectl auth can-i --list` says, a line per right, its spaces made one.
async fn rights(lab: &Lab, service: &str, namespace: &str) -> Result<BTreeSet<String>> {
    let listed = lab.admin().stdout(&["auth", "can-i", "--list", "-n", namespace, &account(service)]).await?;
    Ok(listed.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect())
}

pub async fn services_have_exactly_the_rights_they_need(lab: Arc<Lab>) -> Result<()> {
    // What every ServiceAccount has.
    let nothing = rights(&lab, "nobody", NAMESPACE).await?;
    ensure!(nothing.iter().any(|right| right.contains("selfsubjectaccessreviews")), "{nothing:?}");
    let executor =
        &["groups [] [] [impersonate]", "users [] [] [impersonate]", "nodes [] [] [list]", "pods [] [] [list]"];
    let syncer = &[
        "events.events.k8s.io [] [] [create]",
        "ingressclasses.networking.k8s.io [] [] [get list watch]",
        "ingresses.networking.k8s.io [] [] [get list watch]",
        "services [] [] [get list watch]",
    ];
    let cases: [(&str, &str, &[&str]); 7] = [
        ("proxy-executor", NAMESPACE, executor),
        ("proxy-executor", "default", executor),
        ("route-syncer", "default", syncer),
        (
            "state-keeper",
            NAMESPACE,
            &[
                "configmaps [] [] [create]",
                "configmaps [] [pipeops-agent-state] [get update]",
                "leases.coordination.k8s.io [] [] [create]",
                "leases.coordination.k8s.io [] [pipeops-agent-components-installer] [get update]",
                "leases.coordination.k8s.io [] [pipeops-agent-gateway-link] [get update]",
                "leases.coordination.k8s.io [] [pipeops-agent-route-syncer] [get update]",
                "secrets [] [] [create]",
                "secrets [] [pipeops-agent-secrets] [get update]",
            ],
        ),
        ("state-keeper", "default", &[]),
        ("gateway-link", NAMESPACE, &[]),
        ("nats", NAMESPACE, &[]),
    ];
    for (service, namespace, wanted) in cases {
        let has: BTreeSet<String> = rights(&lab, service, namespace).await?.difference(&nothing).cloned().collect();
        let wanted: BTreeSet<String> = wanted.iter().map(|right| (*right).to_owned()).collect();
        ensure!(has == wanted, "{service} in {namespace} may {has:#?}, and needs {wanted:#?}");
    }

    let questions: [(&str, &[&str], bool); 12] = [
        ("proxy-executor", &["impersonate", "users"], true),
        ("proxy-executor", &["impersonate", "groups"], true),
        ("proxy-executor", &["impersonate", "serviceaccounts"], false),
        ("proxy-executor", &["impersonate", "userextras/scopes.authentication.k8s.io"], false),
        ("proxy-executor", &["get", "secrets"], false),
        ("proxy-executor", &["list", "pods"], true),
        ("proxy-executor", &["get", "pods"], false),
        ("proxy-executor", &["list", "configmaps"], false),
        ("state-keeper", &["get", "secret/pipeops-agent-secrets"], true),
        ("state-keeper", &["get", "secret/pipeops-agent-control-plane"], false),
        ("state-keeper", &["list", "secrets"], false),
        ("state-keeper", &["get", "configmap/kube-root-ca.crt"], false),
    ];
    for (service, question, wanted) in questions {
        let account = account(service);
        let output = lab.admin().run(&[&["auth", "can-i", "-n", NAMESPACE, &account], question].concat()).await?;
        let answer = output.stdout.trim();
        ensure!(answer == if wanted { "yes" } else { "no" }, "{service} {question:?}: {answer} {}", output.stderr);
    }

    // The rules are enforced, not only listed.
    let args = ["get", "secrets", "-n", NAMESPACE];
    for service in ["state-keeper", "proxy-executor", "route-syncer", "gateway-link"] {
        let refused = lab.admin().run(&[&args[..], &[account(service).as_str()]].concat()).await?;
        ensure!(!refused.success() && refused.stderr.contains("(Forbidden)"), "{service}: {refused:?}");
    }
    Ok(())
}

pub async fn a_user_has_the_rights_of_the_name_and_groups_of_the_token(lab: Arc<Lab>) -> Result<()> {
    let token =
        lab.create_token(&["--user", "müller@example.com", "--group", "readers", "--group", "two words"]).await?;
    let user = lab.kubectl_with_token("readers", &token)?;
    let who = ["auth", "whoami", "-o", "jsonpath={.status.userInfo.username} {.status.userInfo.groups}"];
    let who = user.stdout(&who).await?;
    ensure!(who == r#"müller@example.com ["readers","two words","system:authenticated"]"#, "{who}");

    // Exactly what the API server itself says to a user of that name and groups.
    let same = ["--as=müller@example.com", "--as-group=readers", "--as-group=two words"];
    let compare = async || -> Result<bool> {
        let args = ["get", "configmaps", "-n", "kube-public"];
        let through = user.run(&args).await?;
        let straight = lab.admin().run(&[&args[..], &same].concat()).await?;
        ensure!(through.stderr == straight.stderr, "{} / {}", through.stderr, straight.stderr);
        ensure!(through.status.code() == straight.status.code(), "{} / {}", through.status, straight.status);
        Ok(through.success())
    };
    ensure!(!compare().await.context("before")?, "a user without rights reads");
    let binding = ["create", "rolebinding", "readers", "--clusterrole=view", "--group=readers", "-n", "kube-public"];
    lab.admin().stdout(&binding).await?;
    lab::until("the binding to count", std::time::Duration::from_secs(10), || async {
        ensure!(compare().await?, "not yet");
        anyhow::Ok(())
    })
    .await
}
