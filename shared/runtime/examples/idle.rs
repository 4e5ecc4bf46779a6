//! The least a process can be: it serves its probes and waits to be stopped. Its memory is what the runtime costs.

use std::process::ExitCode;

use runtime::{Common, Context, Options};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct Idle {
    #[serde(flatten)]
    common: Common,
}

impl Options for Idle {
    fn common(&self) -> &Common {
        &self.common
    }
}

fn main() -> ExitCode {
    runtime::run("idle", env!("CARGO_PKG_VERSION"), |_: Idle, context: Context| async move {
        context.shutdown.cancelled().await;
        Ok(())
    })
}
