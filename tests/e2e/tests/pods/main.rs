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
        killed::sessions_read_that_the_control_plane_shuts_down,
        killed::a_restarted_node_has_its_agent_again,
    ];
    let shutdown = ("PIPEOPS_SHUTDOWN_TIMEOUT".to_owned(), format!("{}s", killed::SHUTDOWN.as_secs()));
    let options = Options { node: true, control_plane_env: [shutdown].into(), ..Options::default() };
    e2e::run(options, Turns::OneByOne, cases)
}
