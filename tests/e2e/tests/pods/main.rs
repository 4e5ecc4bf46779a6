//! What only one test at a time may do to an agent that is pods, and to its node.

mod drained;
mod killed;

use e2e::{Turns, cases};
use lab::Options;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cases = cases![
        drained::a_node_is_cordoned_tainted_and_drained_alike,
        killed::sessions_through_what_is_killed_end_and_new_ones_work,
        killed::a_restarted_node_has_its_agent_again,
    ];
    e2e::run(Options { node: true, ..Options::default() }, Turns::OneByOne, cases)
}
