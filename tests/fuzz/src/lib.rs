//! Bytes of a hostile peer, made up by the thousand, for everything that reads such bytes.
//!
//! ```text
//!   corpus ─► mutate ─► Target::check ─► what is new to the target is kept, and mutated further
//!                            └─► a panic, a hang, a broken promise: the input is cut down and written into the corpus
//! ```
//!
//! It runs on stable Rust: what is new is told by what the target says of an input (which message, which error), not by the branches
//! that a compiler has marked. The ordinary tests replay the corpus and try a fixed number of inputs; [`cli`] goes on for as long as told.

pub mod cli;
mod corpus;
mod mutate;
mod run;
mod target;

pub use crate::{
    corpus::{Entry, read, write},
    run::{Budget, Failure, Progress, run},
    target::Target,
};
