//! What end-to-end tests share: one lab for all tests of a binary ([`run`]), the same command straight and through the agent
//! ([`Story`]), and HTTP without kubectl ([`Front`]).

mod front;
mod story;
mod suite;
mod text;
mod watch;

pub use crate::{
    front::{Front, Protocol},
    story::{Step, Story},
    suite::{Case, Turns, run},
    text::normalise,
    watch::Lines,
};
