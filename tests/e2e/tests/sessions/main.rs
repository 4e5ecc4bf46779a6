//! What kubectl does with running pods, straight and through an agent that is pods itself.

mod apps;
mod browser;
mod channels;
mod copies;
mod ends;
mod forwards;
mod kube_rs;
mod logs;
mod nodes;
mod older;
mod prepare;
mod python;
mod shells;
mod terminals;
mod tunnels;

use e2e::{Turns, cases};
use lab::Options;
use std::process::ExitCode;

fn main() -> ExitCode {
    // The longest first: they have the others beside them.
    let cases = cases![
        nodes::figures_of_pods_and_nodes_are_shown,
        channels::no_byte_of_two_thousand_sessions_is_lost,
        shells::no_byte_of_many_sessions_is_lost,
        copies::a_gibibyte_is_copied_both_ways,
        forwards::large_bodies_arrive_whole_in_both_directions,
        tunnels::a_service_is_told_who_its_client_is,
        tunnels::a_gibibyte_goes_to_a_service_and_back_twice,
        tunnels::many_clients_of_a_service_keep_their_bytes_apart,
        tunnels::a_tunnel_ends_each_direction_by_itself_and_goes_with_its_pod,
        apps::an_ingress_is_a_web_app_for_as_long_as_it_is_there,
        apps::a_page_behind_the_api_server_leads_where_it_is,
        apps::tls_is_passed_through_to_its_service,
        browser::a_browser_talks_with_an_app_in_every_way,
        tunnels::what_the_owner_does_not_allow_is_reset_and_the_log_says_why,
        tunnels::datagrams_keep_their_bounds_up_to_the_largest,
        forwards::many_connections_at_once_keep_their_bytes_apart,
        forwards::a_half_closed_connection_gets_the_rest_of_its_answer,
        forwards::every_kubectl_forwards_alike_over_every_transport,
        forwards::a_forward_ends_with_its_pod,
        older::an_older_kubectl_does_alike,
        older::an_older_kubectl_goes_on_alike,
        python::the_python_client_sees_and_does_alike,
        kube_rs::kube_rs_sees_and_does_alike,
        shells::each_transport_is_the_one_asked_for,
        nodes::deployments_of_real_pods_are_rolled_out_alike,
        nodes::kubectl_proxy_serves_the_api_through_the_agent,
        logs::logs_are_printed_alike,
        logs::slow_output_is_followed_line_by_line,
        shells::commands_end_alike_over_every_transport,
        shells::pods_are_run_attached_to_and_debugged_alike,
        terminals::a_terminal_has_the_size_of_the_users,
        channels::sessions_by_http2_are_refused_with_the_reason,
        ends::sessions_end_with_the_pod,
        ends::sessions_end_with_the_client,
        ends::sessions_end_with_the_users_token,
        ends::sessions_outlive_the_right_they_began_with,
    ];
    e2e::run(Options { node: true, ..Options::default() }, Turns::Together, cases)
}
