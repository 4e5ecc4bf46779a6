//! Who is on the bus.

use std::fmt;

/// An agent service: a user of the bus, and the queue group its replicas share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Service {
    GatewayLink,
    ProxyExecutor,
    RouteSyncer,
    ComponentsInstaller,
    StateKeeper,
    LocalApi,
}

impl Service {
    pub const ALL: [Self; 6] = [
        Self::GatewayLink,
        Self::ProxyExecutor,
        Self::RouteSyncer,
        Self::ComponentsInstaller,
        Self::StateKeeper,
        Self::LocalApi,
    ];

    /// The service's name everywhere: its bus user, queue group, crate and chart.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::GatewayLink => "gateway-link",
            Self::ProxyExecutor => "proxy-executor",
            Self::RouteSyncer => "route-syncer",
            Self::ComponentsInstaller => "components-installer",
            Self::StateKeeper => "state-keeper",
            Self::LocalApi => "local-api",
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
