//! Each bench runs to its end, in small, and gives every figure it promises.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "the helpers of tests fail as tests do"
)]

use bench::{Record, Report, kubectl, link, proxy, tunnel};
use lab::Progress;

const SUBJECTS: [&str; 4] = ["direct", "pipeops", "konnectivity", "chisel"];
const GETS: [&str; 3] = ["requests/s", "p50-ms", "p99-ms"];

fn value(records: &[Record], row: &str, subject: &str, metric: &str) -> f64 {
    let is = |it: &&Record| it.row == row && it.subject == subject && it.metric == metric;
    let record = records.iter().find(is).unwrap_or_else(|| panic!("no {metric} of {subject} in {row}"));
    assert!(record.value.is_finite() && record.spread.is_finite(), "{record:?}");
    record.value
}

/// What was sent to every subject was answered by every subject.
fn every_row_has_its_figures(records: &[Record]) {
    let rows: [(&str, &[&str]); 10] = [
        ("get-1", &GETS),
        ("get-16", &GETS),
        ("get-128", &GETS),
        ("rate-500", &GETS),
        ("list-1", &["MB/s", "requests/s", "p50-ms"]),
        ("list-8", &["MB/s", "requests/s", "p50-ms"]),
        ("list-pods", &["MB/s", "requests/s", "p50-ms"]),
        ("body-up", &["MB/s"]),
        ("body-down", &["MB/s"]),
        ("watch-1000", &["events/s", "p50-ms", "p99-ms"]),
    ];
    for (row, metrics) in rows {
        for subject in SUBJECTS {
            for metric in metrics {
                assert!(value(records, row, subject, metric) > 0.0, "{metric} of {subject} in {row}");
            }
        }
        for hop in
            ["control-plane", "gateway-link", "nats-server", "proxy-executor", "konnectivity-agent", "chisel-client"]
        {
            value(records, row, hop, "cpu-us/request");
            assert!(value(records, row, hop, "rss-MiB") > 1.0, "{hop} in {row}");
        }
    }
    for through in &SUBJECTS[1..] {
        value(records, "get-1", through, "added-p50-ms");
        value(records, "rate-500", through, "added-p99-ms");
        value(records, "watch-1000", through, "KiB");
    }
    for process in ["etcd", "kube-apiserver", "state-keeper", "konnectivity-server"] {
        assert!(value(records, "idle", process, "rss-MiB") > 1.0, "{process}");
        assert!(value(records, "idle", process, "rss-after-MiB") > 1.0, "{process}");
        value(records, "idle", process, "cpu-ms/s");
    }
}

fn json_has_what_it_is_said_to_have(bench: &str, report: &Report, records: &[Record]) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("figures.json");
    report.write_json(&file).unwrap();
    let written: Vec<serde_json::Map<String, serde_json::Value>> =
        serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(written.len(), records.len());
    for record in written {
        let mut keys: Vec<&str> = record.keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["bench", "metric", "row", "spread", "subject", "unit", "value"]);
        assert_eq!(record["bench"], bench);
    }
}

#[tokio::test]
async fn the_proxy_bench_gives_a_figure_for_every_row_and_subject() {
    let options = proxy::Options { only: Vec::new(), scale: proxy::Scale::smoke(), progress: Progress::slow_only() };
    let mut report = Report::new("proxy");
    proxy::run(options, &mut report).await.unwrap();
    assert!(report.failures().is_empty(), "{:#?}", report.failures());
    let records = report.records();
    every_row_has_its_figures(&records);
    json_has_what_it_is_said_to_have("proxy", &report, &records);
}

#[tokio::test]
async fn the_kubectl_bench_gives_a_figure_for_every_row_and_subject() {
    let options =
        kubectl::Options { only: Vec::new(), scale: kubectl::Scale::smoke(), progress: Progress::slow_only() };
    let mut report = Report::new("kubectl");
    kubectl::run(options, &mut report).await.unwrap();
    assert!(report.failures().is_empty(), "{:#?}", report.failures());
    let records = report.records();
    let rows: [(&str, &[&str]); 8] = [
        ("exec-1", &["sessions/s", "p50-ms"]),
        ("exec-16", &["sessions/s", "p50-ms"]),
        ("exec-bytes", &["MB/s", "stdin-MB/s"]),
        ("port-forward", &["MB/s"]),
        ("port-forward-setup", &["sessions/s"]),
        ("logs", &["MB/s"]),
        ("watch-500", &["ms"]),
        ("get-pods", &["ms"]),
    ];
    for (row, metrics) in rows {
        for (subject, metric) in ["direct", "pipeops"].into_iter().flat_map(|it| metrics.iter().map(move |m| (it, m))) {
            assert!(value(&records, row, subject, metric) > 0.0, "{metric} of {subject} in {row}");
        }
    }
    for hop in ["pipeops", "control-plane", "gateway-link", "nats", "proxy-executor"] {
        value(&records, "session", hop, "KiB");
    }
    json_has_what_it_is_said_to_have("kubectl", &report, &records);
}

#[tokio::test]
async fn the_link_bench_gives_a_figure_for_every_row_and_subject() {
    let options = link::Options { only: Vec::new(), scale: link::Scale::smoke(), progress: Progress::slow_only() };
    let mut report = Report::new("link");
    link::run(options, &mut report).await.unwrap();
    assert!(report.failures().is_empty(), "{:#?}", report.failures());
    let records = report.records();
    for rtt in ["rtt0", "rtt60"] {
        for load in ["stream-1-up", "stream-1-down", "stream-16-up", "stream-16-down", "small-beside-bulk"] {
            let row = format!("{rtt}-{load}");
            for subject in ["direct", "pipeops"] {
                assert!(value(&records, &row, subject, "MB/s") > 0.0, "{subject} in {row}");
            }
            for end in ["control-plane", "agent"] {
                assert!(value(&records, &row, end, "cpu-s/GB") > 0.0, "{end} in {row}");
            }
        }
        value(&records, &format!("{rtt}-small-beside-bulk"), "pipeops", "added-p99-ms");
    }
    for metric in ["registered-s", "back-s"] {
        assert!(value(&records, "storm-2000", "control-plane", metric) > 0.0, "{metric}");
    }
    for metric in ["registered-cpu-s", "back-cpu-s"] {
        value(&records, "storm-2000", "control-plane", metric);
    }
    for metric in ["unacknowledged-heartbeats", "lost-links"] {
        assert!(value(&records, "storm-2000", "control-plane", metric) == 0.0, "{metric}");
    }
    value(&records, "idle-agent", "control-plane", "KiB");
    value(&records, "idle-stream", "control-plane", "KiB");
    value(&records, "busy-stream", "control-plane", "KiB");
    assert!(value(&records, "idle-agent", "gateway-link", "rss-MiB") > 1.0);
    json_has_what_it_is_said_to_have("link", &report, &records);
}

#[tokio::test]
async fn the_tunnel_bench_gives_a_figure_for_every_row_and_subject() {
    let options = tunnel::Options { only: Vec::new(), scale: tunnel::Scale::smoke(), progress: Progress::slow_only() };
    let mut report = Report::new("tunnel");
    tunnel::run(options, &mut report).await.unwrap();
    assert!(report.failures().is_empty(), "{:#?}", report.failures());
    let records = report.records();
    let rows: [(&str, &[&str]); 10] = [
        ("bulk-1-up", &["MB/s"]),
        ("bulk-1-down", &["MB/s"]),
        ("bulk-16-up", &["MB/s"]),
        ("bulk-16-down", &["MB/s"]),
        ("get-1", &GETS),
        ("get-16", &GETS),
        ("get-128", &GETS),
        ("setup-16", &GETS),
        ("small-beside-bulk", &["MB/s", "p50-ms", "p99-ms"]),
        ("udp", &["packets/s"]),
    ];
    // rathole, which takes long to build, is for the bench in full.
    let subjects = ["direct", "pipeops", "chisel", "frp"];
    for long in ["", "rtt60-"] {
        for (row, metrics) in rows {
            let row = format!("{long}{row}");
            for (subject, metric) in subjects.into_iter().flat_map(|it| metrics.iter().map(move |m| (it, m))) {
                assert!(value(&records, &row, subject, metric) > 0.0, "{metric} of {subject} in {row}");
            }
            for subject in subjects.into_iter().filter(|_| row.contains("bulk-")) {
                if subject != "direct" {
                    value(&records, &row, subject, "cpu-s/GB");
                }
            }
        }
        for subject in subjects {
            value(&records, &format!("{long}udp"), subject, "loss-%");
        }
        let ends = ["control-plane", "gateway-link", "chisel-server", "chisel-client", "frp-server", "frp-client"];
        for subject in subjects.into_iter().skip(1).chain(ends) {
            for metric in ["rss-MiB", "rss-after-MiB"] {
                assert!(value(&records, &format!("{long}idle"), subject, metric) > 1.0, "{metric} of {subject}");
            }
        }
    }
    json_has_what_it_is_said_to_have("tunnel", &report, &records);
}
