//! The corpus, which holds what has failed once, and a fixed number of inputs made of it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use fuzz::{Budget, Target, read, run};

const SEED: u64 = 20_261_127;

fn holds(target: Target, inputs: usize) {
    let corpus: Vec<Vec<u8>> = read(target).unwrap().into_iter().map(|entry| entry.input).collect();
    assert!(!corpus.is_empty(), "nothing to begin with");
    match run(target, &corpus, Budget::Inputs(inputs), SEED, |_| {}) {
        Ok(progress) => println!("{}: {progress}", target.name()),
        Err(failure) => {
            let file = fuzz::write(target, &failure.input).unwrap();
            panic!("{}: {}; the input is {}", target.name(), failure.reason, file.display());
        }
    }
}

#[test]
fn messages_of_agents_are_read_or_refused() {
    holds(Target::AgentMessage, 300_000);
}

#[test]
fn messages_of_control_planes_are_read_or_refused() {
    holds(Target::ControlMessage, 300_000);
}

#[test]
fn heads_of_streams_are_the_same_however_they_are_cut() {
    holds(Target::StreamHeader, 500_000);
}

#[test]
fn whatever_a_peer_sends_ends_its_own_link_at_most() {
    holds(Target::Link, 30_000);
}

#[test]
fn compressed_messages_are_the_same_however_they_are_cut() {
    holds(Target::CompressedFrames, 20_000);
}

#[test]
fn configurations_are_read_checked_and_written_alike() {
    holds(Target::ClusterConfig, 300_000);
}
