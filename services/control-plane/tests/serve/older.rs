//! Agents that speak only the published protocol, and what users notice of that.

mod agent;
mod answers;
mod apps;
mod limits;
mod links;
mod requests;
mod sockets;
mod tunnels;
mod user;
