//! `cargo lab bench`: see `cargo lab bench --help`.

fn main() -> std::process::ExitCode {
    bench::main()
}
