//! What end-to-end tests share: one lab for all tests of a binary ([`run`]), the same command straight and through the agent
//! ([`Story`]), and HTTP without kubectl ([`Front`]); for tests of the way itself, a [`stage`] with a [`backend`] that misbehaves on
//! request, and a [`way`] between two processes that does; for the objects that run, the rendered [`chart`], and a [`place`] in a cluster
//! with one service's rights.

pub mod backend;
pub mod chart;
pub mod client;
pub mod collector;
pub mod gauges;
pub mod load;
pub mod place;
pub mod side;
pub mod stage;
pub mod way;
pub mod wire;

mod front;
mod story;
mod suite;
mod terminal;
mod text;

pub use crate::{
    front::{Front, Protocol},
    story::{Step, Story},
    suite::{Case, Turns, run},
    terminal::Terminal,
    text::normalise,
};
