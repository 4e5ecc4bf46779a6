use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Instant,
};

use rustix::process::Signal;

use crate::driver::Driven;

#[test]
fn a_signal_ends_the_process_cleanly() {
    for (signal, name) in [(Signal::TERM, "SIGTERM"), (Signal::INT, "SIGINT")] {
        let mut driven = Driven::start(&[], &[]);
        driven.signal(signal);
        assert_eq!(driven.wait_exit().code(), Some(0));
        let log = driven.log();
        assert!(log.iter().any(|line| line["message"] == "stopping" && line["signal"] == name), "{log:?}");
        assert_eq!(log.last().unwrap()["message"], "stopped");
        assert_eq!(log.iter().filter(|line| line["level"] != "INFO").count(), 0, "{log:?}");
    }
}

#[test]
fn several_threads_stop_as_cleanly_as_one() {
    let mut driven = Driven::start(&[], &[("PIPEOPS_WORKER_THREADS", "2")]);
    driven.tell("ready");
    driven.wait_get("/ready", |answer| answer.status == 200);
    driven.signal(Signal::TERM);
    assert_eq!(driven.wait_exit().code(), Some(0));
}

#[test]
fn a_process_that_stops_is_not_ready_but_alive_until_it_has_finished() {
    let mut driven = Driven::start(&[], &[]);
    driven.tell("ready");
    driven.wait_get("/ready", |answer| answer.status == 200);
    driven.tell("hang");
    driven.wait_log("the start of it", |line| line["message"] == "hanging");
    driven.signal(Signal::TERM);
    let stopping = driven.wait_get("/ready", |answer| answer.status == 503);
    assert!(stopping.body.contains("\"stopping\":true"), "{}", stopping.body);
    assert_eq!(driven.get("/health").status, 200);
    driven.signal(Signal::TERM);
    assert_eq!(driven.wait_exit().code(), Some(143), "the second signal is not waited for");
    driven.wait_log("why it went", |line| line["message"] == "told to stop twice, exiting at once");
}

#[test]
fn a_service_that_does_not_stop_is_given_up_after_its_timeout() {
    let mut driven = Driven::start(&["--set", "shutdown_timeout=300ms"], &[]);
    driven.tell("hang");
    driven.wait_log("the start of it", |line| line["message"] == "hanging");
    let begun = Instant::now();
    driven.signal(Signal::TERM);
    assert_eq!(driven.wait_exit().code(), Some(1));
    assert!(begun.elapsed().as_millis() >= 300);
    let log = driven.log();
    assert!(log.last().unwrap()["error"].as_str().unwrap().contains("did not stop within 300ms"), "{log:?}");
}

#[test]
fn a_failure_is_logged_once_with_its_whole_chain() {
    let mut driven = Driven::start(&[], &[]);
    driven.tell("fail while dialling");
    assert_eq!(driven.wait_exit().code(), Some(1));
    let log = driven.log();
    let errors: Vec<_> = log.iter().filter(|line| line["level"] == "ERROR").collect();
    assert_eq!(errors.len(), 1, "{log:?}");
    assert_eq!(errors[0]["error"], "cannot serve: while dialling: the innermost reason");
}

#[test]
fn a_service_that_finishes_by_itself_ends_the_process_with_0() {
    let mut driven = Driven::start(&[], &[]);
    driven.tell("finish");
    assert_eq!(driven.wait_exit().code(), Some(0));
}

#[test]
fn a_panic_is_a_line_of_the_log_like_any_other() {
    let mut driven = Driven::start(&[], &[]);
    driven.tell("panic");
    let line =
        driven.wait_log("the panic", |line| line["message"].as_str().is_some_and(|m| m.contains("asked to panic")));
    assert_eq!(line["level"], "ERROR");
    assert!(line["location"].as_str().unwrap().contains("driven.rs"), "{line}");
    driven.tell("finish");
    assert_eq!(driven.wait_exit().code(), Some(0));
}

#[test]
fn a_client_that_says_nothing_neither_blocks_others_nor_the_end() {
    let mut driven = Driven::start(&[], &[]);
    let mut silent: Vec<_> = (0..40).map(|_| TcpStream::connect(driven.address).unwrap()).collect();
    silent[0].write_all(b"GET /health HT").unwrap();
    assert_eq!(driven.get("/health").status, 200);
    driven.signal(Signal::TERM);
    assert_eq!(driven.wait_exit().code(), Some(0));
    assert_eq!(silent[1].read(&mut [0]).unwrap_or_default(), 0);
}
