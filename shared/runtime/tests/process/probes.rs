use serde_json::Value;

use crate::driver::Driven;

fn json(body: &str) -> Value {
    serde_json::from_str(body).unwrap()
}

#[test]
fn readiness_follows_the_conditions() {
    let mut driven = Driven::start(&[], &[]);
    let starting = driven.wait_get("/ready", |answer| answer.body.contains("driver"));
    assert_eq!(starting.status, 503);
    let body = json(&starting.body);
    assert_eq!(body["ready"], false);
    assert_eq!(body["conditions"][0]["name"], "driver");
    assert_eq!(body["conditions"][0]["reason"], "starting");

    driven.tell("ready");
    let ready = driven.wait_get("/ready", |answer| answer.status == 200);
    assert_eq!(json(&ready.body)["ready"], true);
    assert!(ready.head.contains("content-type: application/json"), "{}", ready.head);

    driven.tell("not-ready the peer is away");
    let away = driven.wait_get("/ready", |answer| answer.status == 503);
    assert_eq!(json(&away.body)["conditions"][0]["reason"], "the peer is away");
    assert_eq!(driven.get("/health").status, 200, "a process that waits for its peer is alive");
    driven.wait_log("the change in the log", |line| line["message"] == "not ready" && line["level"] == "WARN");
}

#[test]
fn health_version_and_unknown_paths() {
    let driven = Driven::start(&[], &[]);
    assert_eq!(json(&driven.get("/health").body)["status"], "ok");
    let version = json(&driven.get("/version").body);
    assert_eq!((version["name"].as_str(), version["version"].as_str()), (Some("driven"), Some("0.1.0")));
    assert_eq!(driven.get("/nothing").status, 404);
    assert_eq!(driven.get("/health?verbose=1").status, 200);
    let refused = driven.request("POST", "/health");
    assert_eq!(refused.status, 405);
    assert!(refused.head.contains("allow: GET, HEAD"), "{}", refused.head);
    let head = driven.request("HEAD", "/ready");
    assert_eq!((head.status, head.body.as_str()), (503, ""));
}

#[test]
fn metrics_show_the_service_and_its_process() {
    let mut driven = Driven::start(&[], &[]);
    driven.tell("ready");
    driven.tell("ready");
    let metrics = driven.wait_get("/metrics", |answer| answer.body.contains("driven_commands_total 2\n")).body;
    assert!(metrics.contains("# HELP driven_commands_total Commands carried out\n"), "{metrics}");
    assert!(metrics.contains("pipeops_build_info{service=\"driven\",version=\"0.1.0\"} 1\n"), "{metrics}");
    assert!(!metrics.contains("otel_scope") && !metrics.contains("target_info"), "{metrics}");

    let value = |name: &str| -> f64 {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} is not in\n{metrics}")).parse().unwrap()
    };
    assert!((1e6..1e8).contains(&value("process_resident_memory_bytes")), "{metrics}");
    assert!((3.0..100.0).contains(&value("process_open_fds")), "{metrics}");
    assert!(value("process_max_fds") >= value("process_open_fds"), "{metrics}");
    assert!((2.0..10.0).contains(&value("process_threads")), "the main thread and the driver's: {metrics}");
    assert!(value("process_start_time_seconds") > 1.6e9, "{metrics}");
    assert!((1.0..10.0).contains(&value("tokio_alive_tasks")), "{metrics}");
    assert!(value("process_cpu_seconds_total") >= 0.0, "{metrics}");
}

#[test]
fn cpu_time_is_counted_up() {
    let driven = Driven::start(&[], &[]);
    driven.wait_get("/metrics", |answer| {
        let line = answer.body.lines().find_map(|line| line.strip_prefix("process_cpu_seconds_total "));
        line.unwrap().parse::<f64>().unwrap() >= 0.02
    });
}
