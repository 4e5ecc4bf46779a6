//! Programs as people have them, through ports of the control plane: databases, shells and measurements that know nothing of clusters.
//! Their servers are no Services here but addresses of gateway-link's machine (`tunnel.forwards`); from the link on the way is the same.

mod databases;
mod names;
mod rates;
mod server;
mod shells;

use e2e::{Turns, cases};
use lab::Options;
use server::Servers;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cases = cases![
        databases::psql_works_with_postgresql,
        databases::redis_cli_works_with_redis,
        names::dig_asks_over_udp_and_tcp,
        shells::ssh_and_sftp_work_with_openssh,
        rates::iperf3_measures_both_directions_over_tcp_and_udp,
    ];
    let servers = match Servers::free() {
        Ok(servers) => servers,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    e2e::run(Options { values: servers.values(), ..Options::default() }, Turns::Together, cases)
}
