//! What must hold while processes die, freeze and come back: an answer is right or visibly none, service resumes by itself, nothing
//! is left behind, and whoever does not read harms nobody else.

#[path = "faults/breaking.rs"]
mod breaking;
#[path = "faults/frozen.rs"]
mod frozen;
#[path = "faults/leaks.rs"]
mod leaks;
#[path = "faults/replaced.rs"]
mod replaced;
#[path = "faults/stuck.rs"]
mod stuck;

use breaking::{each_process_frozen_under_load, each_process_killed_and_restarted_under_load};
use e2e::{scenes, stage::run};
use frozen::what_a_frozen_executor_may_still_do_is_not_said_to_be_undone;
use leaks::what_is_opened_and_abandoned_leaves_nothing_behind;
use replaced::the_api_servers_certificate_and_the_agents_token_are_replaced_unnoticed;
use std::process::ExitCode;
use stuck::whoever_does_not_read_slows_nobody_and_fills_nothing;

fn main() -> ExitCode {
    run(
        false,
        scenes![
            what_is_opened_and_abandoned_leaves_nothing_behind,
            whoever_does_not_read_slows_nobody_and_fills_nothing,
            the_api_servers_certificate_and_the_agents_token_are_replaced_unnoticed,
            each_process_killed_and_restarted_under_load,
            each_process_frozen_under_load,
            what_a_frozen_executor_may_still_do_is_not_said_to_be_undone,
        ],
    )
}
