//! kubectl and helm print through the agent what they print straight, and end alike.

mod access;
mod changes;
mod charts;
mod fronts;
mod large;
mod objects;
mod reads;
mod waits;
mod watches;

use e2e::{Turns, cases};
use std::process::ExitCode;

fn main() -> ExitCode {
    // The longest first: they have the others beside them.
    let cases = cases![
        watches::a_watch_of_minutes_shows_each_event_at_once_and_nothing_between,
        large::five_thousand_objects_are_listed_alike_paged_and_unpaged,
        charts::helm_installs_upgrades_rolls_back_and_uninstalls_alike,
        changes::definitions_and_their_objects_are_alike,
        changes::objects_are_changed_alike_in_every_way,
        changes::server_side_apply_and_its_conflicts_are_alike,
        waits::rollouts_are_followed_alike,
        waits::waiting_ends_when_what_is_waited_for_happens,
        watches::events_arrive_one_by_one,
        reads::objects_are_shown_alike_in_every_format,
        reads::what_the_api_says_of_itself_is_alike,
        reads::errors_of_the_api_are_alike,
        fronts::both_versions_of_http_get_what_the_api_server_answers,
        fronts::bodies_of_both_versions_of_http_arrive,
        fronts::a_protobuf_watch_delivers_whole_frames,
        access::services_have_exactly_the_rights_they_need,
        access::a_user_has_the_rights_of_the_name_and_groups_of_the_token,
    ];
    e2e::run(lab::Options::default(), Turns::Together, cases)
}
