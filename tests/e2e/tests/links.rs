//! What must hold on the ways between the processes: from the agent to the control plane, and from its services to the bus. A proxy in
//! between freezes, cuts, refuses and delays; the processes at its ends are well.

#[path = "links/bus.rs"]
mod bus;
#[path = "links/delayed.rs"]
mod delayed;
#[path = "links/frozen.rs"]
mod frozen;
#[path = "links/ground.rs"]
mod ground;
#[path = "links/reconnects.rs"]
mod reconnects;

use e2e::{Turns, cases};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cases = cases![
        frozen::both_ends_notice_a_frozen_link_within_20_s_and_a_new_one_is_up_when_it_can_be,
        reconnects::agents_come_back_as_stated_and_500_links_leave_nothing_behind,
        bus::a_frozen_bus_fails_streams_visibly_and_leaves_links_alone,
        bus::a_bus_that_is_cut_fails_streams_visibly_and_leaves_links_alone,
        delayed::over_a_long_way_kubectl_renewals_and_configurations_pass,
    ];
    e2e::run(lab::Options::default(), Turns::OneByOne, cases)
}
