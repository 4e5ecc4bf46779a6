//! The charts as a product: they lint, render with ordinary and odd values, refuse what they do not know, and the objects they make
//! are hardened, carry exactly the rights of the services' table and are accepted by a real API server.

use anyhow::{Context, Result, ensure};
use e2e::chart::{Chart, Helm, Object, text};
use lab::{Lab, Options, Progress};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Of the agent's services, those that talk to the Kubernetes API.
const WITH_TOKEN: [&str; 3] = ["proxy-executor", "route-syncer", "state-keeper"];

#[tokio::test]
async fn charts_lint_without_a_warning() -> Result<()> {
    let helm = Helm::find().await?;
    for chart in Chart::ALL {
        let mut args = vec!["lint", chart.folder()];
        args.extend(chart.required().iter().flat_map(|value| ["--set", value]));
        let output = helm.run(&args).await?;
        ensure!(output.success(), "helm lint {}:\n{}{}", chart.folder(), output.stdout, output.stderr);
        ensure!(!output.stdout.contains("[WARNING]"), "helm lint {} warns:\n{}", chart.folder(), output.stdout);
    }
    Ok(())
}

#[tokio::test]
async fn a_value_that_is_needed_and_missing_is_named() -> Result<()> {
    let helm = Helm::find().await?;
    for missing in Chart::Agent.required() {
        let (name, _) = missing.split_once('=').context("a required value is name=value")?;
        let others: Vec<&str> = Chart::Agent.required().iter().copied().filter(|value| value != missing).collect();
        let output = helm.template_raw(Chart::Agent, &others, &[]).await?;
        ensure!(!output.success(), "the agent's chart renders without {name}");
        ensure!(output.stderr.contains(&format!("{name} ")), "the message does not name {name}: {}", output.stderr);
    }
    Ok(())
}

#[tokio::test]
async fn every_pod_is_hardened() -> Result<()> {
    let helm = Helm::find().await?;
    for (chart, values) in Chart::variants() {
        for object in helm.template(chart, &values).await? {
            let Some(pod) = object.pod() else { continue };
            let name = object.name();
            let is = |pointer: &str, wanted: &Value| -> Result<()> {
                let found = pod.pointer(pointer);
                ensure!(found == Some(wanted), "{name}: {pointer} is {found:?}, not {wanted}");
                Ok(())
            };
            is("/automountServiceAccountToken", &false.into())?;
            is("/enableServiceLinks", &false.into())?;
            is("/securityContext/runAsNonRoot", &true.into())?;
            is("/securityContext/runAsUser", &65532.into())?;
            is("/securityContext/seccompProfile/type", &"RuntimeDefault".into())?;
            is("/containers/0/securityContext/readOnlyRootFilesystem", &true.into())?;
            is("/containers/0/securityContext/allowPrivilegeEscalation", &false.into())?;
            is("/containers/0/securityContext/capabilities/drop/0", &"ALL".into())?;
            for pointer in [
                "/containers/0/resources/limits/memory",
                "/containers/0/resources/requests/cpu",
                "/containers/0/livenessProbe/httpGet",
                "/containers/0/readinessProbe/httpGet",
                "/terminationGracePeriodSeconds",
            ] {
                ensure!(pod.pointer(pointer).is_some(), "{name} has no {pointer}");
            }
            let containers = pod.pointer("/containers").and_then(Value::as_array).map_or(0, Vec::len);
            ensure!(containers == 1, "{name} has {containers} containers; each is to be looked at here");
            for forbidden in ["/hostNetwork", "/hostPID", "/hostIPC", "/initContainers"] {
                ensure!(pod.pointer(forbidden).is_none(), "{name} has {forbidden}");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn only_what_talks_to_kubernetes_has_a_token() -> Result<()> {
    let objects = Helm::find().await?.template(Chart::Agent, &[]).await?;
    let mut with_token = BTreeSet::new();
    let mut bound = BTreeSet::new();
    for object in &objects {
        if let Some(pod) = object.pod()
            && pod.to_string().contains("serviceAccountToken")
        {
            with_token.insert(object.service());
        }
        for subject in object.list("/subjects") {
            bound.extend(text(subject, "/name").strip_prefix("pipeops-agent-").map(str::to_owned));
        }
    }
    let wanted = BTreeSet::from(WITH_TOKEN.map(str::to_owned));
    ensure!(with_token == wanted, "pods with a token: {with_token:?}");
    ensure!(bound == wanted, "services with rights in the cluster: {bound:?}");
    Ok(())
}

#[tokio::test]
async fn rights_in_the_cluster_are_exactly_those_of_the_mode() -> Result<()> {
    let helm = Helm::find().await?;
    let constrained = r#"[
        {"apiGroups":["authentication.k8s.io"],"resources":["users"],"verbs":["impersonate:user-info"]},
        {"apiGroups":["authentication.k8s.io"],"resources":["groups"],"verbs":["impersonate:user-info"],"resourceNames":["staff"]},
        {"apiGroups":[""],"resources":["nodes","pods"],"verbs":["list"]},
        {"apiGroups":["*"],"resources":["*"],"verbs":["impersonate-on:user-info:get","impersonate-on:user-info:list",
            "impersonate-on:user-info:watch","impersonate-on:user-info:create","impersonate-on:user-info:update",
            "impersonate-on:user-info:patch","impersonate-on:user-info:delete","impersonate-on:user-info:deletecollection"]},
        {"nonResourceURLs":["*"],"verbs":["impersonate-on:user-info:get","impersonate-on:user-info:head",
            "impersonate-on:user-info:options","impersonate-on:user-info:post","impersonate-on:user-info:put",
            "impersonate-on:user-info:patch","impersonate-on:user-info:delete"]}]"#;
    let impersonate = r#"[{"apiGroups":[""],"resources":["users"],"verbs":["impersonate"]},
        {"apiGroups":[""],"resources":["groups"],"verbs":["impersonate"],"resourceNames":["staff"]},
        {"apiGroups":[""],"resources":["nodes","pods"],"verbs":["list"]}]"#;
    let uncounted = r#"[{"apiGroups":[""],"resources":["users"],"verbs":["impersonate"]},
        {"apiGroups":[""],"resources":["groups"],"verbs":["impersonate"],"resourceNames":["staff"]}]"#;
    let staff = "proxy-executor.rbac.impersonate.groups={staff}";
    let by_rights = "proxy-executor.rbac.impersonate.constrained=true";
    let rule = "proxy-executor.rbac.rules[0].";
    let custom = ["apiGroups={apps}", "resources={deployments}", "verbs={get}"].map(|part| format!("{rule}{part}"));
    let custom: Vec<&str> = custom.iter().map(String::as_str).collect();
    let no_counts = "proxy-executor.facts.counts=false";
    let cases: [(&str, &[&str], Option<&str>, &str); 6] = [
        ("impersonate", &[staff], Some(impersonate), "pipeops-system-pipeops-agent-proxy-executor"),
        ("impersonate", &[staff, no_counts], Some(uncounted), "pipeops-system-pipeops-agent-proxy-executor"),
        ("impersonate", &[staff, by_rights], Some(constrained), "pipeops-system-pipeops-agent-proxy-executor"),
        ("view", &[], None, "view"),
        ("admin", &[], None, "cluster-admin"),
        (
            "custom",
            &custom,
            Some(r#"[{"apiGroups":["apps"],"resources":["deployments"],"verbs":["get"]}]"#),
            "pipeops-system-pipeops-agent-proxy-executor",
        ),
    ];
    for (mode, values, rules, role) in cases {
        let mode_value = format!("proxy-executor.rbac.mode={mode}");
        let mut all = vec![mode_value.as_str()];
        all.extend(values);
        // That of one service; the others' do not change with it.
        let mut objects = helm.template(Chart::Agent, &all).await?;
        objects.retain(|object| object.service() == "proxy-executor");
        let cluster_roles: Vec<&Object> = objects.iter().filter(|object| object.kind() == "ClusterRole").collect();
        let found: Vec<Option<&Value>> = cluster_roles.iter().map(|role| role.0.pointer("/rules")).collect();
        match rules {
            Some(rules) => {
                let rules: Value = serde_json::from_str(rules)?;
                ensure!(found == [Some(&rules)], "{mode}: {found:?}");
            }
            None => ensure!(found.is_empty(), "{mode} makes a ClusterRole of its own: {found:?}"),
        }
        let bindings: Vec<&Object> = objects.iter().filter(|object| object.kind() == "ClusterRoleBinding").collect();
        let roles: Vec<&str> = bindings.iter().map(|binding| text(&binding.0, "/roleRef/name")).collect();
        ensure!(roles == [role], "{mode} binds {roles:?}");
    }
    Ok(())
}

#[tokio::test]
async fn the_owners_policy_reaches_the_executor_and_is_absent_where_nothing_is_set() -> Result<()> {
    let helm = Helm::find().await?;
    let variables = async |values: &[&str]| -> Result<BTreeMap<String, String>> {
        let objects = helm.template(Chart::Agent, values).await?;
        let executor = objects.iter().find(|object| object.pod().is_some() && object.service() == "proxy-executor");
        let pod = executor.and_then(Object::pod).context("there is no proxy-executor")?;
        let env = pod.pointer("/containers/0/env").and_then(Value::as_array).into_iter().flatten();
        let policy = env.filter_map(|variable| {
            let name = text(variable, "/name").strip_prefix("PIPEOPS_POLICY_")?;
            Some((name.to_owned(), text(variable, "/value").to_owned()))
        });
        Ok(policy.collect())
    };
    let pairs = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>()
    };
    let found = variables(&[]).await?;
    ensure!(found == pairs(&[("ALLOW_SYSTEM_IDENTITIES", "false"), ("READ_ONLY", "false")]), "{found:?}");
    let found = variables(&[
        "proxy-executor.policy.readOnly=true",
        "proxy-executor.policy.verbs={get,list}",
        "proxy-executor.policy.namespaces={a,b}",
        "proxy-executor.policy.deniedSubresources={pods/exec,*/proxy}",
    ])
    .await?;
    let expected = [
        ("ALLOW_SYSTEM_IDENTITIES", "false"),
        ("DENIED_SUBRESOURCES", "pods/exec,*/proxy"),
        ("NAMESPACES", "a,b"),
        ("READ_ONLY", "true"),
        ("VERBS", "get,list"),
    ];
    ensure!(found == pairs(&expected), "{found:?}");
    for bad in ["verbs={lst}", "namespaces={a b}", "deniedSubresources={exec}", "readOnly=perhaps"] {
        let value = format!("proxy-executor.policy.{bad}");
        let output = helm.template_raw(Chart::Agent, Chart::Agent.required(), &[&value]).await?;
        ensure!(!output.success(), "the chart takes {value}");
    }
    Ok(())
}

#[tokio::test]
async fn bus_users_have_exactly_the_permissions_of_the_table() -> Result<()> {
    let objects = Helm::find().await?.template(Chart::Agent, &[]).await?;
    let conf = objects
        .iter()
        .map(|object| text(&object.0, "/stringData/nats.conf"))
        .find(|conf| !conf.is_empty())
        .context("no Secret holds nats.conf")?;
    let users: BTreeMap<&str, &str> = conf.split("user: \"").skip(1).filter_map(|user| user.split_once('"')).collect();
    let services: BTreeSet<&str> = users.keys().copied().collect();
    let wanted = BTreeSet::from(["gateway-link", "proxy-executor", "route-syncer", "state-keeper"]);
    ensure!(services == wanted, "users: {services:?}");
    for service in bus::Service::ALL {
        let Some(user) = users.get(service.as_str()) else { continue };
        let wanted = bus::subjects::permissions(service);
        for (what, wanted) in [("publish", &wanted.publish), ("subscribe", &wanted.subscribe)] {
            let line = user.lines().find_map(|line| line.trim().strip_prefix(what)).map(str::trim);
            let line = line.with_context(|| format!("{service} has no {what}"))?;
            let expected = match wanted.as_slice() {
                [] => r#"{ deny: ">" }"#.to_owned(),
                subjects => format!("{{ allow: {} }}", serde_json::to_string(subjects)?),
            };
            ensure!(line == expected, "{service} may {what} {line}, the table says {expected}");
        }
        ensure!(user.contains("allow_responses: true") == wanted.allow_responses, "{service}: allow_responses");
        ensure!(user.contains("password: \"$2"), "the password of {service} is not hashed");
    }
    Ok(())
}

#[tokio::test]
async fn every_variable_the_charts_set_is_a_setting_of_the_service() -> Result<()> {
    let settings = BTreeMap::from([
        ("control-plane", runtime::settings_help::<control_plane::Options>()),
        ("gateway-link", runtime::settings_help::<gateway_link::Options>()),
        ("proxy-executor", runtime::settings_help::<proxy_executor::Options>()),
        ("route-syncer", runtime::settings_help::<route_syncer::Options>()),
        ("state-keeper", runtime::settings_help::<state_keeper::Options>()),
    ]);
    let helm = Helm::find().await?;
    let mut seen = 0_usize;
    for (chart, values) in Chart::variants() {
        for object in helm.template(chart, &values).await? {
            let (Some(pod), Some(help)) = (object.pod(), settings.get(object.service().as_str())) else { continue };
            let known: BTreeSet<&str> = help
                .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .filter(|word| word.starts_with("PIPEOPS_"))
                .collect();
            for variable in pod.pointer("/containers/0/env").and_then(Value::as_array).into_iter().flatten() {
                let name = text(variable, "/name");
                ensure!(known.contains(name), "{}: the chart sets {name}, which is no setting", object.name());
                seen += 1;
            }
        }
    }
    ensure!(seen > 30, "only {seen} variables were looked at");
    Ok(())
}

#[tokio::test]
async fn values_that_nobody_reads_are_refused_at_every_level() -> Result<()> {
    let helm = Helm::find().await?;
    for chart in Chart::ALL {
        let tables = chart.tables()?;
        ensure!(tables.len() > 8, "only {tables:?} of {}", chart.folder());
        for table in tables {
            let path = if table.is_empty() { "surprise".to_owned() } else { format!("{table}.surprise") };
            let value = format!("{path}=1");
            let output = helm.template_raw(chart, chart.required(), &[&value]).await?;
            ensure!(!output.success(), "{} takes {value}", chart.folder());
            ensure!(output.stderr.contains("surprise"), "{value} is refused without being named: {}", output.stderr);
        }
    }
    Ok(())
}

#[tokio::test]
async fn every_value_is_in_the_readme() -> Result<()> {
    for chart in Chart::ALL {
        let readme = chart.read("README.md")?;
        for key in chart.leaves()? {
            let last = key.rsplit('.').next().unwrap_or_default();
            ensure!(readme.contains(last), "{}: README.md does not mention {key}", chart.folder());
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_real_api_server_accepts_every_object_and_upgrades_change_nothing() -> Result<()> {
    let lab = Lab::start(Options { services: false, progress: Progress::slow_only(), ..Options::default() }).await?;
    let helm = Helm::find().await?;
    let kubectl = lab.admin();
    // Objects without a namespace go to this one; one of the variants also names it.
    let namespace = "default";
    let policy = ["enforce", "warn"].map(|mode| format!("pod-security.kubernetes.io/{mode}=restricted"));
    let output = kubectl.run(&["label", "namespace", namespace, &policy[0], &policy[1]]).await?;
    ensure!(output.success(), "kubectl label: {}", output.stderr);
    for (chart, values) in Chart::variants() {
        let rendered = helm.render(chart, &values).await?;
        let args = ["apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"];
        let output = kubectl.run_with_input(&args, &rendered).await?;
        ensure!(output.success(), "{} with {values:?}: {}", chart.folder(), output.stderr);
        ensure!(!output.stderr.contains("Warning"), "{} with {values:?}: {}", chart.folder(), output.stderr);
    }

    let manifest = async |verb: &str| -> Result<String> {
        let mut args = vec![verb, "pipeops-agent", Chart::Agent.folder(), "--namespace", namespace];
        args.extend(Chart::Agent.required().iter().flat_map(|value| ["--set", value]));
        let kubeconfig = kubectl.kubeconfig().to_string_lossy().into_owned();
        args.extend(["--kubeconfig", &kubeconfig]);
        let output = helm.run(&args).await?;
        ensure!(output.success(), "helm {verb}: {}", output.stderr);
        let output = helm
            .run(&["get", "manifest", "pipeops-agent", "--namespace", namespace, "--kubeconfig", &kubeconfig])
            .await?;
        ensure!(output.success(), "helm get manifest: {}", output.stderr);
        Ok(output.stdout)
    };
    let first = manifest("install").await?;
    let second = manifest("upgrade").await?;
    ensure!(first.contains("kind: Deployment"), "nothing was installed: {first}");
    ensure!(first == second, "an upgrade without a change makes new passwords or new pods");
    lab.stop().await
}
