//! control-plane: where agents dial in, and users reach their clusters.
//!
//! ```text
//!   user ── TLS, HTTP/1.1 or 2 ──► server ─► route ─┬─ proxy ─► Clusters: a live link ─► kube stream, or messages ─► agent
//!                                                   └─ rest      ▲
//!   agent ── WebSocket ───────────► server ─► agent ─────────────┤ register, hello, heartbeats
//!   anybody ── HTTP(S) ───────────► server ─► web ───────────────┤ hostname and path ─► http stream ─► Service
//!           ── TCP, UDP ──────────► gateway ─────────────────────┘ port ─► tcp or udp stream ─► Service
//! ```
//!
//! It owns the tokens (stored hashed), the clusters' identities, and the links while they are up. It decides who may
//! reach which cluster; what a user may do there is decided in the cluster. It never buffers a body.

mod agent;
mod auth;
pub mod cli;
mod clusters;
mod configs;
mod dispatch;
mod events;
mod gateway;
mod hello;
mod listener;
mod metrics;
mod older;
mod options;
mod path;
mod proxy;
mod reply;
mod rest;
mod revocable;
mod route;
mod service;
mod session;
mod site;
mod stay;
mod store;
mod subpath;
mod tls;
mod web;
mod websocket;

pub use options::Options;
pub use service::run;
