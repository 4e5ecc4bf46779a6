//! What kubectl prints, and how it ends, when something on the way is not there; and what is still there afterwards.

mod absent;
mod constrained;
mod credentials;
mod cut;
mod refused;
mod restarts;
mod revoked;
mod show;

use e2e::{Turns, cases};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cases = cases![
        refused::an_unknown_cluster_is_named,
        refused::a_bad_token_is_said_to_be_bad,
        refused::a_revoked_token_stops_working,
        revoked::a_watch_breaks_off_when_its_token_is_revoked_and_no_other_does,
        refused::a_token_for_other_clusters_is_refused,
        refused::impersonation_is_refused_with_the_reason,
        refused::a_user_without_rights_reads_what_the_api_server_says,
        refused::errors_are_status_objects_for_every_client,
        absent::without_an_agent_requests_fail_at_once,
        absent::without_an_executor_requests_fail_at_once,
        absent::without_the_bus_requests_fail_at_once,
        absent::without_an_api_server_requests_fail_at_once,
        credentials::a_bad_token_of_the_executor_is_said_and_a_new_one_used,
        credentials::a_wrong_ca_of_the_api_server_is_said_and_the_right_one_used,
        cut::a_body_that_is_cut_off_is_never_taken_for_a_whole_one,
        constrained::with_constrained_rights_users_work_and_nobody_greater_can_be_named,
        restarts::identities_survive_restarts_of_everything,
    ];
    e2e::run(lab::Options::default(), Turns::OneByOne, cases)
}
