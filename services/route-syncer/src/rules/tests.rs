use k8s_openapi::api::networking::v1::Ingress;
use proptest::prelude::*;
use serde::de::DeserializeOwned;

use super::*;

fn read<T: DeserializeOwned>(yaml: &str) -> Arc<T> {
    Arc::new(serde_saphyr::from_str(yaml).unwrap_or_else(|error| panic!("{error}: {yaml}")))
}

fn service(namespace: &str, name: &str, spec: &str) -> Arc<Service> {
    read(&format!("metadata: {{namespace: {namespace}, name: {name}}}\nspec: {{{spec}}}"))
}

/// An Ingress that is ours, made at that second.
fn ingress(namespace: &str, name: &str, second: u8, spec: &str) -> Arc<Ingress> {
    read(&format!(
        "metadata:\n  namespace: {namespace}\n  name: {name}\n  uid: u-{name}\n  labels: {{pipeops.io/managed: \"true\"}}\n  \
         creationTimestamp: 2026-01-01T00:00:{second:02}Z\nspec: {spec}"
    ))
}

/// A rule with one path.
fn rule(host: &str, path: &str, backend: &str) -> String {
    format!(
        "{{rules: [{{host: {host:?}, http: {{paths: [{{path: {path:?}, pathType: Prefix, backend: {{service: {backend}}}}}]}}}}]}}"
    )
}

fn web() -> Vec<Arc<Service>> {
    vec![
        service("shop", "web", "ports: [{name: http, port: 80}, {name: admin, port: 9000}]"),
        service("shop", "outside", "type: ExternalName, externalName: example.com"),
        service("shop", "balanced", "type: LoadBalancer, ports: [{port: 80}]"),
        service("default", "kubernetes", "ports: [{port: 443}]"),
        service("kube-system", "dns", "ports: [{port: 53}]"),
    ]
}

fn traefik() -> Arc<Service> {
    service(
        "kube-system",
        "traefik",
        "type: LoadBalancer, ports: [{name: websecure, port: 443}, {name: web, port: 8000}]",
    )
}

/// Everything, so that the controller of kube-system is as good as any.
fn access() -> Access {
    Access { deny: Vec::new(), ..Access::default() }
}

fn of(ingresses: Vec<Arc<Ingress>>, services: Vec<Arc<Service>>) -> Wished {
    wished(&Objects { ingresses, services, classes: Vec::new() }, &access())
}

/// Each route as text.
fn routes(wished: &Wished) -> Vec<String> {
    let shown = |route: Route| {
        let tls = if route.tls { "https" } else { "http" };
        format!(
            "{tls}://{}{} {:?} {}/{}:{}",
            route.hostname, route.path, route.path_type, route.namespace, route.service_name, route.service_port
        )
    };
    wished.sync.routes().map(shown).collect()
}

fn skipped(wished: &Wished) -> Vec<String> {
    wished.skipped.values().flatten().map(|skipped| format!("{}: {}", skipped.what, skipped.reason)).collect()
}

#[test]
fn each_path_is_a_route_straight_to_its_service_where_there_is_no_controller() {
    let spec = "
  tls: [{hosts: [a.example.com, '*.b.example.com']}]
  rules:
  - host: A.example.com
    http: {paths: [
      {path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}},
      {path: /admin, pathType: Exact, backend: {service: {name: web, port: {name: admin}}}}]}
  - host: x.b.example.com
    http: {paths: [{pathType: ImplementationSpecific, backend: {service: {name: web, port: {name: http}}}}]}
  - host: c.example.com
  defaultBackend: {service: {name: web, port: {number: 80}}}";
    let wished = of(vec![ingress("shop", "web", 1, spec)], web());
    assert_eq!(
        routes(&wished),
        [
            "https://a.example.com/ Prefix shop/web:80",
            "https://a.example.com/admin Exact shop/web:9000",
            "https://x.b.example.com/ ImplementationSpecific shop/web:80",
            "http://c.example.com/ Prefix shop/web:80",
        ]
    );
    assert_eq!((wished.sync.ingress_controller, skipped(&of(Vec::new(), web()))), (None, Vec::<String>::new()));
}

#[test]
fn what_can_be_no_route_is_skipped_with_the_reason() {
    let to = |name: &str, port: &str| format!("{{name: {name}, port: {{{port}}}}}");
    let web_80 = to("web", "number: 80");
    let cases = [
        ("shop", rule("a.example.com", "/", &to("none", "number: 80")), r#"a.example.com/: there is no Service "none""#),
        ("shop", rule("a.example.com", "/x", &to("web", "number: 81")), r#"a.example.com/x: Service "web" has no port 81"#),
        ("shop", rule("a.example.com", "/", &to("web", "name: y")), r#"a.example.com/: Service "web" has no port called "y""#),
        ("shop", rule("a.example.com", "/", &to("outside", "number: 80")), r#"a.example.com/: Service "outside" is of type ExternalName"#),
        ("shop", rule("a.example.com", "/", &to("balanced", "number: 80")), r#"a.example.com/: Service "balanced" is of type LoadBalancer"#),
        ("default", rule("a.example.com", "/", &to("kubernetes", "number: 443")), "a.example.com/: the API server is not published"),
        ("kube-system", rule("a.example.com", "/", &to("dns", "number: 53")), "a.example.com/: what is in namespace kube-system is the cluster's own"),
        ("shop", rule("", "/", &web_80), "a rule: there is no hostname by which clients could ask for it"),
        ("shop", format!("{{defaultBackend: {{service: {web_80}}}}}"), "its default backend: there is no hostname by which clients could ask for it"),
        ("shop", "{rules: [{host: a.example.com}]}".to_owned(), "a.example.com: there is neither a path nor a default backend"),
        ("shop", rule("a_b.example.com", "/", &web_80), r#"a_b.example.com/: "a_b.example.com" is no hostname"#),
        ("shop", rule("a.example.com", "/a b", &web_80), r#"a.example.com/a b: the path "/a b" does not begin with '/'"#),
        (
            "shop",
            "{rules: [{host: a.example.com, http: {paths: [{path: /, pathType: Prefix, backend: {resource: {kind: Bucket, name: b}}}]}}]}".to_owned(),
            "a.example.com/: its backend is no Service",
        ),
    ];
    for (namespace, spec, expected) in cases {
        let wished = of(vec![ingress(namespace, "web", 1, &spec)], web());
        assert_eq!(routes(&wished), Vec::<String>::new(), "{spec}");
        let found = skipped(&wished);
        assert!(found.len() == 1 && found[0].starts_with(expected), "{found:?} is not {expected}");
        assert_eq!((wished.sources.len(), wished.sync.ingresses.len()), (1, 0));
    }
}

#[test]
fn only_what_asks_for_it_is_published() {
    let spec = rule("a.example.com", "/", "{name: web, port: {number: 80}}");
    let object =
        |meta: &str| read::<Ingress>(&format!("metadata: {{namespace: shop, name: web, {meta}}}\nspec: {spec}"));
    let published = |meta: &str| !of(vec![object(meta)], web()).sources.is_empty();
    assert!(published("labels: {pipeops.io/managed: 'true'}"));
    assert!(published("annotations: {pipeops.io/managed-by: pipeops}"));
    assert!(!published("labels: {pipeops.io/managed: 'false'}"));
    assert!(!published("annotations: {pipeops.io/managed-by: helm}"));
    assert!(!published("generation: 1"));
    let going = "labels: {pipeops.io/managed: 'true'}, deletionTimestamp: 2026-01-01T00:00:00Z";
    assert!(!published(going), "what is being deleted is gone for clients");
}

#[test]
fn routes_lead_to_the_ingress_controller_where_there_is_one() {
    let spec = rule("a.example.com", "/", "{name: web, port: {number: 80}}");
    let all = |extra: Vec<Arc<Service>>| of(vec![ingress("shop", "web", 1, &spec)], [web(), extra].concat());
    let through_traefik = all(vec![traefik()]);
    assert_eq!(routes(&through_traefik), ["http://a.example.com/ Prefix kube-system/traefik:8000"]);
    let found = through_traefik.sync.ingress_controller.unwrap();
    assert_eq!((&*found.kind, found.port, &*found.namespace), ("traefik", 8000, "kube-system"));

    let nginx = service("ingress-nginx", "ingress-nginx-controller", "ports: [{port: 80}]");
    assert_eq!(
        routes(&all(vec![traefik(), nginx.clone()])),
        ["http://a.example.com/ Prefix ingress-nginx/ingress-nginx-controller:80"],
        "the documented order"
    );
    let ours = service("pipeops-system", "traefik", "ports: [{port: 80}]");
    assert_eq!(routes(&all(vec![nginx, ours])), ["http://a.example.com/ Prefix pipeops-system/traefik:80"]);
    let labelled = "metadata: {namespace: traefik, name: edge, labels: {app.kubernetes.io/name: traefik}}\nspec: {ports: [{port: 80}]}";
    assert_eq!(routes(&all(vec![read(labelled)])), ["http://a.example.com/ Prefix traefik/edge:80"]);
    let only_tls = service("traefik", "traefik", "ports: [{name: websecure, port: 443}]");
    assert_eq!(routes(&all(vec![only_tls])), ["http://a.example.com/ Prefix shop/web:80"]);
}

#[test]
fn an_ingress_of_another_controllers_class_leads_straight_to_its_service() {
    let rules = rule("a.example.com", "/", "{name: web, port: {number: 80}}");
    let classed =
        |class: &str| ingress("shop", "web", 1, &rules.replacen('{', &format!("{{ingressClassName: {class}, "), 1));
    let class: Arc<IngressClass> = read("metadata: {name: public}\nspec: {controller: traefik.io/ingress-controller}");
    let to = |class_name: &str| {
        let objects = Objects {
            ingresses: vec![classed(class_name)],
            services: [web(), vec![traefik()]].concat(),
            classes: vec![class.clone()],
        };
        routes(&wished(&objects, &access())).remove(0)
    };
    assert!(to("public").ends_with("kube-system/traefik:8000"));
    assert!(to("traefik").ends_with("kube-system/traefik:8000"), "by name, where there is no such class");
    assert!(to("nginx").ends_with("shop/web:80"));
}

#[test]
fn what_the_owner_does_not_let_be_reached_is_no_route_and_its_controller_none() {
    let objects = || Objects {
        ingresses: vec![ingress("shop", "web", 1, &rule("a.example.com", "/", "{name: web, port: {number: 80}}"))],
        services: [web(), vec![traefik()]].concat(),
        classes: Vec::new(),
    };
    let by_default = wished(&objects(), &Access::default());
    assert_eq!(routes(&by_default), ["http://a.example.com/ Prefix shop/web:80"], "kube-system is not to be reached");
    let denied =
        Access { deny: vec!["shop/*".parse().unwrap(), "kube-system/*".parse().unwrap()], ..Access::default() };
    let reason = r#"a.example.com/: Service shop/web:80 may not be reached: this cluster's settings deny "shop/*""#;
    assert_eq!(skipped(&wished(&objects(), &denied)), [reason]);
    // No way around it by a controller that may be reached.
    let denied = Access { deny: vec!["shop/*".parse().unwrap()], ..Access::default() };
    assert_eq!(skipped(&wished(&objects(), &denied)), [reason]);
}

#[test]
fn who_was_first_keeps_a_hostname_and_path() {
    let spec = rule("a.example.com", "/", "{name: web, port: {number: 80}}");
    let wished = of(vec![ingress("shop", "later", 9, &spec), ingress("shop", "first", 1, &spec)], web());
    assert_eq!(wished.sync.ingresses.len(), 1);
    assert_eq!(wished.sync.ingresses[0].ingress_name, "first");
    assert_eq!(skipped(&wished), ["a.example.com/: Ingress shop/first has it already"]);
    let same = of(vec![ingress("shop", "first", 1, &spec), ingress("shop", "later", 9, &spec)], web());
    assert_eq!(wished, same, "the order of a list says nothing");
}

#[test]
fn what_is_deployed_is_told_and_nothing_large_or_foreign() {
    let spec = rule("a.example.com", "/", "{name: web, port: {number: 80}}");
    let told = |annotations: &str| {
        let object: Arc<Ingress> = read(&format!(
            "metadata: {{namespace: shop, name: web, labels: {{pipeops.io/managed: 'true'}}, annotations: {{x.io/secret: y{annotations}}}}}\nspec: {spec}"
        ));
        let all = of(vec![object], web()).sync.ingresses.remove(0).annotations;
        assert!(!all.contains_key("x.io/secret"));
        (all.get(DEPLOYMENT_ID).cloned().unwrap_or_default(), all[DEPLOYMENT_NAME].clone())
    };
    let pair = |id: &str, name: &str| (id.to_owned(), name.to_owned());
    assert_eq!(told(""), pair("", "a"));
    assert_eq!(told(", pipeops.io/owner: shop, pipeops.io/environment: live"), pair("live:shop", "shop"));
    assert_eq!(told(", pipeops.io/deployment-id: d-1, pipeops.io/deployment-name: Shop"), pair("d-1", "Shop"));
}

proptest! {
    #[test]
    fn nothing_in_an_ingress_makes_a_route_that_is_none(host in "(?s).{0,80}", path in "(?s).{0,40}", name in ".{0,10}", port in any::<i32>()) {
        let object: Ingress = serde_json::from_value(serde_json::json!({
            "metadata": {"namespace": "shop", "name": "web", "labels": {"pipeops.io/managed": "true"}},
            "spec": {"rules": [{"host": host, "http": {"paths": [
                {"path": path, "pathType": "Prefix", "backend": {"service": {"name": name, "port": {"number": port}}}},
                {"path": path, "pathType": "Exact", "backend": {"service": {"name": "web", "port": {"number": 80}}}}]}}]},
        })).unwrap();
        let wished = of(vec![Arc::new(object)], web());
        for route in wished.sync.routes() {
            prop_assert!(route.check().is_ok(), "{:?}", route);
        }
        prop_assert!(wished.sync.routes().count() + wished.skipped.values().flatten().count() > 0);
    }
}

#[test]
fn tls_is_passed_through_straight_to_the_service_where_that_is_asked_for() {
    let mut ingress = ingress("shop", "web", 1, &rule("a.example.com", "/", "{name: web, port: {number: 80}}"));
    Arc::make_mut(&mut ingress).annotations_mut().extend(
        [(PASSTHROUGH, "true"), ("pipeops.io/proxy-protocol", "v2")].map(|(a, b)| (a.to_owned(), b.to_owned())),
    );
    let objects =
        Objects { ingresses: vec![ingress], services: [web(), vec![traefik()]].concat(), classes: Vec::new() };
    let wished = wished(&objects, &access());
    assert_eq!(routes(&wished), ["https://a.example.com/ Prefix shop/web:80"]);
    let route = wished.sync.routes().next().unwrap();
    assert_eq!((route.tls_mode, route.annotations["pipeops.io/proxy-protocol"].as_str()), (TlsMode::Passthrough, "v2"));
}
