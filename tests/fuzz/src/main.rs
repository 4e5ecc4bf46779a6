//! `cargo lab fuzz`.

fn main() -> std::process::ExitCode {
    fuzz::cli::main()
}
