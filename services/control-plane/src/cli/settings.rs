//! What the commands that work on the data folder share.

use std::path::PathBuf;

use clap::Args;

use crate::options::Options;

/// Where the data is.
#[derive(Debug, Args)]
pub struct Settings {
    /// Configuration file (YAML) of the control plane.
    #[arg(long, value_name = "FILE", env = "PIPEOPS_CONFIG")]
    config: Option<PathBuf>,
    /// Sets one key, over file and environment; may be repeated. `data_dir=DIR` is the one that counts here.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Settings {
    pub fn load(self) -> anyhow::Result<Options> {
        let args = runtime::Args { config: self.config, set: self.set, ..runtime::Args::default() };
        Ok(runtime::load(&args)?)
    }
}

/// The name is part of a URL and of a file name.
pub fn check_cluster(name: &str) -> anyhow::Result<()> {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.' || b == b'_');
    anyhow::ensure!(
        plain && !name.is_empty() && !name.starts_with('.') && name.len() <= 63 && name != "ws",
        "{name:?} cannot be the name of a cluster: use 1 to 63 letters, digits, '-', '_' and '.', no '.' first, and not \"ws\""
    );
    Ok(())
}
