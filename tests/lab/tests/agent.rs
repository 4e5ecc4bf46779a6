//! A lab with the agent: what the chart renders is what runs.

use lab::{Lab, Options, Tool, until};
use std::{collections::BTreeMap, time::Duration};

const SOON: Duration = Duration::from_secs(30);

async fn answers(kubectl: &Tool) -> anyhow::Result<String> {
    kubectl.stdout(&["get", "--raw", "/version", "--request-timeout=5s"]).await
}

#[tokio::test]
async fn every_replica_is_a_process_with_the_chart_s_files_and_rights() {
    let replicas = BTreeMap::from([("proxy-executor".to_owned(), 2)]);
    let lab = Lab::start(Options { replicas, ..Options::default() }).await.unwrap();

    let names: Vec<_> = lab.processes().iter().map(|process| process.name()).collect();
    let all = [
        "control-plane",
        "nats-server",
        "gateway-link",
        "proxy-executor",
        "proxy-executor-1",
        "route-syncer",
        "state-keeper",
    ];
    for name in all {
        assert!(names.contains(&name), "{names:?}");
    }
    let env = |name: &str, key: &str| lab.process(name).unwrap().spec().env.get(key).cloned();
    let password = std::fs::read_to_string(env("gateway-link", "PIPEOPS_BUS_PASSWORD_FILE").unwrap()).unwrap();
    let secret = "jsonpath={.data.password}";
    let secret = ["get", "secret", "pipeops-agent-gateway-link-bus", "-n", "pipeops-system", "-o", secret];
    assert!(!password.is_empty() && !lab.admin().stdout(&secret).await.unwrap().is_empty());
    assert_eq!(
        env("gateway-link", "PIPEOPS_KUBERNETES_TOKEN_FILE"),
        None,
        "gateway-link has no business with Kubernetes"
    );
    assert_ne!(env("proxy-executor", "PIPEOPS_SERVER_LISTEN"), env("proxy-executor-1", "PIPEOPS_SERVER_LISTEN"));

    let token_file = env("proxy-executor", "PIPEOPS_KUBERNETES_TOKEN_FILE").unwrap();
    let before = std::fs::read_to_string(&token_file).unwrap();
    let executor = lab.kubectl_with_token("own-token", "not-a-token").unwrap();
    assert!(!executor.run(&["get", "namespaces"]).await.unwrap().success());
    // Tokens of the same second are the same token.
    until("a new token in the file", SOON, || async {
        lab.renew_tokens().await?;
        anyhow::ensure!(std::fs::read_to_string(&token_file)? != before, "it is the old one");
        Ok(())
    })
    .await
    .unwrap();

    let token = lab.create_token(&["--user", "nobody-in-particular"]).await.unwrap();
    let nobody = lab.kubectl_with_token("nobody", &token).unwrap();
    let refused = nobody.run(&["get", "secrets", "--all-namespaces"]).await.unwrap();
    assert!(refused.stderr.contains("Forbidden") && refused.stderr.contains("nobody-in-particular"), "{refused:?}");

    let both = ["proxy-executor", "proxy-executor-1"].map(|name| lab.process(name).unwrap());
    for executor in &both {
        executor.kill().await.unwrap();
        until("the other executor to answer", SOON, || answers(lab.proxied().unwrap())).await.unwrap();
        executor.start().await.unwrap();
        executor.wait_ready(SOON).await.unwrap();
    }
    lab.wait_ready(SOON).await.unwrap();
    lab.stop().await.unwrap();
}

#[tokio::test]
async fn an_existing_cluster_is_used_and_left_as_it_was() {
    let cluster = Lab::start(Options { services: false, ..Options::default() }).await.unwrap();
    let options = Options {
        kubeconfig: Some(cluster.admin().kubeconfig().to_owned()),
        cluster: "theirs".to_owned(),
        ..Options::default()
    };
    let left = async || {
        let kinds = "namespaces,clusterroles,clusterrolebindings";
        let left = cluster.admin().stdout(&["get", kinds, "-o", "name"]).await.unwrap();
        left.lines().filter(|name| name.contains("pipeops-lab")).map(str::to_owned).collect::<Vec<_>>()
    };
    let refused = Options { values: vec!["unknown=value".to_owned()], ..options.clone() };
    let error = format!("{:#}", Lab::start(refused).await.unwrap_err());
    assert!(error.contains("its logs are in /") && error.contains("the chart does not install"), "{error}");
    assert_eq!(left().await, Vec::<String>::new());

    let agent = Lab::start(options).await.unwrap();
    assert!(agent.process("kube-apiserver").is_err());
    assert!(agent.proxy_url().unwrap().ends_with("/agent/theirs/proxy"));
    answers(agent.proxied().unwrap()).await.unwrap();
    // There might be nodes, and the pods would be a second agent.
    let pods = "jsonpath={.items[*].spec.replicas}";
    let pods = cluster.direct().stdout(&["get", "deployments", "-n", "pipeops-lab", "-o", pods]).await.unwrap();
    assert_eq!(pods, "0 0 0 0 0");

    agent.stop().await.unwrap();
    assert_eq!(left().await, Vec::<String>::new());
    cluster.stop().await.unwrap();
}
