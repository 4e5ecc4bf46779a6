//! `cargo lab`: see `cargo lab --help`.

fn main() -> std::process::ExitCode {
    lab::cli::main()
}
