//! What gateway-link does at the control plane's REST endpoints for those who have neither a token nor a way out.
//!
//! Sets may be of thousands, and a message of the bus holds 1 MB: they travel compressed.

mod packed;

use std::time::Duration;

use protocol::route::{RouteAnswer, RouteSync, Unregister};
use protocol::tunnel::{TunnelSync, TunnelSyncAnswer};
use serde::{Deserialize, Serialize};

use crate::{Request, Service, facts::NoError, state::Done};

/// How long the control plane has to answer a call.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long whoever asks for the call waits.
const WAIT: Duration = Duration::from_secs(35);

/// Asks one gateway-link whether it has a link, and which: what the control plane was told before may be told anew after each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetLink {}

/// How one gateway-link stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkSeen {
    /// The replica that answers.
    pub instance: String,
    /// How many links it has had, with the one that it has.
    pub links: u64,
    pub connected: bool,
}

/// Makes the routes of this cluster be these, and no others. gateway-link fills in which cluster it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncRoutes {
    #[serde(with = "packed")]
    pub sync: RouteSync,
}

/// The control plane has taken them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncedRoutes {
    /// None from a control plane of the published protocol, which does not say what became of each.
    #[serde(with = "packed")]
    pub answer: Option<RouteAnswer>,
}

/// Takes away all routes of this cluster with that hostname.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnregisterRoute {
    pub route: Unregister,
}

/// Makes the tunnels of this cluster be these, and no others. gateway-link fills in which cluster it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncTunnels {
    #[serde(with = "packed")]
    pub sync: TunnelSync,
}

/// Why a call was not made, or not answered as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum CallError {
    /// This agent is registered nowhere yet, or has no token to show.
    #[error("not connected to the control plane: {reason}")]
    NotConnected { reason: String },
    /// The control plane may have done it.
    #[error("no answer from the control plane: {reason}")]
    Unreachable { reason: String },
    #[error("the control plane answers {status}: {message}")]
    Refused { status: u16, message: String },
    /// It was done, and what became of it cannot be read.
    #[error("the control plane's answer cannot be read: {reason}")]
    Unreadable { reason: String },
}

impl Request for GetLink {
    type Error = NoError;
    type Reply = LinkSeen;

    const SERVED_BY: Service = Service::GatewayLink;
    const SUBJECT: &'static str = "pipeops.link.get";
}

macro_rules! calls {
    ($($request:ty => $reply:ty, $subject:literal;)*) => {$(
        impl Request for $request {
            type Error = CallError;
            type Reply = $reply;

            const SERVED_BY: Service = Service::GatewayLink;
            const SUBJECT: &'static str = $subject;
            const TIMEOUT: Duration = WAIT;
        }
    )*};
}

calls! {
    SyncRoutes => SyncedRoutes, "pipeops.routes.sync";
    UnregisterRoute => Done, "pipeops.routes.unregister";
    SyncTunnels => TunnelSyncAnswer, "pipeops.tunnels.sync";
}
