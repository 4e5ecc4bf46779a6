//! Prints the bus permissions that the chart reads; `cargo lab generate` writes them to `bus::subjects::PERMISSIONS_FILE`.

fn main() {
    print!("{}", bus::subjects::permissions_yaml());
}
