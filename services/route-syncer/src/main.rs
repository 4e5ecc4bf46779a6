use std::process::ExitCode;

fn main() -> ExitCode {
    runtime::run(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"), route_syncer::run)
}
