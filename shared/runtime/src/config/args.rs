use std::{ffi::OsString, path::PathBuf};

use clap::{Args as _, FromArgMatches as _};

use super::{ConfigError, settings_help};
use crate::Options;

const CONFIG_ENV: &str = "PIPEOPS_CONFIG";

/// The flags every process has. A service with commands of its own flattens them into its clap struct.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Args {
    /// Configuration file (YAML)
    #[arg(long, value_name = "FILE", env = CONFIG_ENV)]
    pub config: Option<PathBuf>,
    /// Sets one key, over file and environment; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// The same as --set logging.level=LEVEL
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Prints the configuration that would be used, secrets masked, and exits
    #[arg(long)]
    pub print_config: bool,
    /// Prints the JSON schema of the configuration file and exits
    #[arg(long)]
    pub print_schema: bool,
}

impl Args {
    /// Key and text of each override, weakest first.
    pub(super) fn overrides(&self) -> Result<Vec<(String, String)>, ConfigError> {
        let mut overrides = Vec::with_capacity(self.set.len() + 1);
        if let Some(level) = &self.log_level {
            overrides.push(("logging.level".to_owned(), level.clone()));
        }
        for text in &self.set {
            match text.split_once('=') {
                Some((key, value)) if !key.trim().is_empty() => {
                    overrides.push((key.trim().to_owned(), value.to_owned()));
                }
                // Only the part that cannot be a secret's value is repeated.
                _ => return Err(ConfigError::Set { text: text.split('=').next().unwrap_or_default().to_owned() }),
            }
        }
        Ok(overrides)
    }
}

pub(crate) enum Parsed {
    Run(Args),
    /// Help or version on stdout (0), or a complaint on stderr (2): already printed.
    Exit(u8),
}

/// Reads the flags of a process without commands. `args` starts with the program's name, as the system gives it.
pub(crate) fn parse_args<O: Options>(
    name: &'static str,
    version: &'static str,
    args: impl IntoIterator<Item = OsString>,
) -> Parsed {
    let args: Vec<OsString> = args.into_iter().collect();
    if args.len() <= 1 {
        // How a pod starts. Building the command line's description would leave its memory behind for nothing.
        return Parsed::Run(Args { config: std::env::var_os(CONFIG_ENV).map(PathBuf::from), ..Args::default() });
    }
    let command = Args::augment_args(clap::Command::new(name).version(version).disable_help_subcommand(true));
    let parsed = command.try_get_matches_from(args).and_then(|matches| Args::from_arg_matches(&matches));
    match parsed {
        Ok(args) => Parsed::Run(args),
        Err(error) => {
            let help = error.kind() == clap::error::ErrorKind::DisplayHelp;
            // A closed pipe is the reader's choice.
            let _ = error.print();
            if help {
                super::write_stdout(&format!("\n{}", settings_help::<O>()));
            }
            Parsed::Exit(u8::try_from(error.exit_code()).unwrap_or(2))
        }
    }
}
