//! What kubectl prints when something is not there.

use e2e::{Turns, cases};
use std::process::ExitCode;

fn main() -> ExitCode {
    e2e::run(lab::Options::default(), Turns::OneByOne, cases![])
}
