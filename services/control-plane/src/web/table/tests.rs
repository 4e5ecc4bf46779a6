use proptest::prelude::*;

use super::*;

fn route(hostname: &str, path: &str, path_type: PathType, service: &str) -> Route {
    let text = format!(
        r#"{{"hostname":"{hostname}","namespace":"a","service_name":"{service}","service_port":80,"path":"{path}"}}"#
    );
    Route { path_type, ..serde_json::from_str(&text).unwrap() }
}

fn cluster(id: &str) -> ClusterId {
    ClusterId::new(id).unwrap()
}

fn leads(table: &Table, host: &str, path: &str) -> Option<String> {
    Some(table.host(host)?.entry(path)?.target.service().to_owned())
}

#[test]
fn exact_names_come_before_wildcards_and_exact_paths_before_the_longest_prefix() {
    let mut table = Table::default();
    let routes = [
        route("shop.example.com", "/", PathType::Prefix, "root"),
        route("shop.example.com", "/api", PathType::Prefix, "api"),
        route("shop.example.com", "/api/v1/", PathType::ImplementationSpecific, "v1"),
        route("shop.example.com", "/api/v1", PathType::Exact, "exact"),
        route("*.example.com", "/", PathType::Prefix, "any"),
        route("only.example.org", "/a/b", PathType::Prefix, "deep"),
    ];
    table.replace(&cluster("c"), &[], &routes);
    for (host, path, service) in [
        ("shop.example.com", "/", Some("root")),
        ("shop.example.com", "/apiary", Some("root")),
        ("shop.example.com", "/api", Some("api")),
        ("shop.example.com", "/api/", Some("api")),
        ("shop.example.com", "/api/v1", Some("exact")),
        ("shop.example.com", "/api/v1/", Some("v1")),
        ("shop.example.com", "/api/v1/pods", Some("v1")),
        ("shop.example.com", "/api/v11", Some("api")),
        ("shop.example.com", "//api", Some("root")),
        ("blog.example.com", "/api", Some("any")),
        ("a.b.example.com", "/", None),
        ("example.com", "/", None),
        ("*.example.com", "/", None),
        ("only.example.org", "/a", None),
        ("only.example.org", "/", None),
        ("only.example.org", "/a/b/c", Some("deep")),
    ] {
        assert_eq!(leads(&table, host, path).as_deref(), service, "{host}{path}");
    }
}

#[test]
fn a_name_is_one_clusters_and_so_is_what_its_wildcard_covers() {
    let (first, second) = (cluster("first"), cluster("second"));
    let mut table = Table::default();
    let names = [
        route("a.example.com", "/", PathType::Prefix, "s"),
        route("*.wide.org", "/", PathType::Prefix, "s"),
        route("b.wide.org", "/", PathType::Prefix, "s"),
    ];
    table.replace(&first, &[], &names);
    for (name, taken) in [
        ("a.example.com", true),
        ("b.example.com", false),
        ("*.example.com", true),
        ("c.wide.org", true),
        ("*.wide.org", true),
        ("x.c.wide.org", false),
        ("wide.org", false),
        ("*.c.wide.org", false),
    ] {
        assert_eq!(table.owner(name, &second).is_some(), taken, "{name}");
        assert_eq!(table.owner(name, &first), None, "{name}");
    }
    table.replace(&first, &names, &[]);
    assert_eq!((table.owner("*.wide.org", &second), table.len(), table.domains.len()), (None, 0, 0));
}

/// As the rules say it: segment by segment.
fn expected(routes: &[Route], path: &str) -> Option<usize> {
    fn segments(path: &str) -> Vec<&str> {
        path.strip_suffix('/').unwrap_or(path).split('/').collect()
    }
    let last = |found: &dyn Fn(&Route) -> bool| routes.iter().rposition(found);
    if let Some(exact) = last(&|route| route.path_type == PathType::Exact && route.path == path) {
        return Some(exact);
    }
    let asked = segments(path);
    let below = |route: &Route| route.path_type != PathType::Exact && asked.starts_with(&segments(&route.path));
    let longest = routes.iter().filter(|route| below(route)).map(|route| segments(&route.path).len()).max()?;
    last(&|route| below(route) && segments(&route.path).len() == longest)
}

proptest! {
    #[test]
    fn the_route_is_the_one_that_the_rules_name(
        routes in prop::collection::vec(("/[ab/]{0,5}", any::<bool>()), 0..8),
        path in "/[ab/]{0,7}|.{0,20}|/{0,3000}",
    ) {
        let routes: Vec<Route> = routes.iter().enumerate().map(|(n, (path, exact))| {
            let path_type = if *exact { PathType::Exact } else { PathType::Prefix };
            route("h.example.com", path, path_type, &format!("s{n}"))
        }).collect();
        let mut table = Table::default();
        table.replace(&cluster("c"), &[], &routes);
        let expected = expected(&routes, &path).map(|n| format!("s{n}"));
        prop_assert_eq!(leads(&table, "h.example.com", &path), expected);
    }

    #[test]
    fn no_host_and_path_make_it_panic(host in "(?s).{0,40}", path in "(?s).{0,40}") {
        let mut table = Table::default();
        table.replace(&cluster("c"), &[], &[route("*.example.com", "/a/b", PathType::Prefix, "s")]);
        let _found = leads(&table, &host, &path);
    }
}
