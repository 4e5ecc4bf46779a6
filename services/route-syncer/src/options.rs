use runtime::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of route-syncer.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Options {
    #[serde(flatten)]
    pub common: runtime::Common,
    /// The bus over which gateway-link is asked.
    pub bus: bus::Options,
    /// The API server whose objects are watched.
    pub kubernetes: kubernetes::ApiServer,
    /// Services that routes may lead to: what gateway-link lets the control plane reach.
    pub services: targets::Access,
    /// What the control plane is told.
    pub routes: Routes,
}

impl runtime::Options for Options {
    const ENV: &'static [(&'static str, &'static str)] = &[];

    fn common(&self) -> &runtime::Common {
        &self.common
    }
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Routes {
    /// How often the control plane is told all routes although nothing has changed, because it forgets what it is not told again;
    /// "4h".
    pub refresh_interval: Duration,
}

impl Default for Routes {
    fn default() -> Self {
        Self { refresh_interval: Duration::from_secs(4 * 60 * 60) }
    }
}
