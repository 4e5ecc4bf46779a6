//! Settings in layers: defaults < file < environment < flags.
//!
//! The JSON schema of the options is the one description of what exists: it gives every key its environment name, its
//! help text and its type, and decides what is unknown.

mod args;
mod help;
mod layers;
mod nearest;
mod schema;

use std::{env, fs, io::Write as _, path::PathBuf};

use serde::Serialize;
use serde_json::Value;

pub use args::Args;
pub(crate) use args::{Parsed, parse_args};
pub use help::settings_help;

use crate::Options;
use layers::{Layers, Setting, Source};
use schema::Schema;

/// The prefix of every environment variable, before the key's path in capitals.
const ENV_PREFIX: &str = "PIPEOPS_";
/// Names from before the keys existed, for [`crate::Common`].
const COMMON_ENV: [(&str, &str); 2] =
    [("PIPEOPS_LOG_LEVEL", "logging.level"), ("PIPEOPS_LOG_FORMAT", "logging.format")];

/// Why a configuration cannot be used. The text names the place and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read configuration file {path:?}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("configuration file {path:?} is not valid YAML: {message}")]
    Syntax { path: PathBuf, message: String },
    #[error("configuration file {path:?} holds {found} where a table of settings is expected")]
    NotATable { path: PathBuf, found: &'static str },
    #[error("unknown key {key:?} in {place}{}", nearest.as_ref().map_or_else(String::new, |n| format!("; did you mean {n:?}?")))]
    UnknownKey { key: String, place: String, nearest: Option<String> },
    #[error("invalid value for {key:?} in {place}: {message}")]
    Invalid { key: String, place: String, message: String },
    #[error("cannot use --set {text:?}: expected KEY=VALUE")]
    Set { text: String },
    #[error("the environment variable {name} is not valid UTF-8")]
    NotUnicode { name: String },
    #[error("these settings do not work together: {message}")]
    Combination { message: String },
    #[error("the defaults of these options cannot be written and read back: {message}")]
    Defaults { message: String },
}

/// Reads the options from `args.config`, the environment and `args.set`.
///
/// # Errors
/// Unreadable file, unknown key (with the nearest known one), a value that does not fit.
pub fn load<O: Options>(args: &Args) -> Result<O, ConfigError> {
    load_with(args, |variable| env::var_os(variable))
}

/// [`load`] with the environment given.
fn load_with<O: Options>(args: &Args, variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Result<O, ConfigError> {
    let schema = Schema::of::<O>();
    let mut layers = Layers::new(&schema);
    if let Some(path) = &args.config {
        layers.file(path, &read_file(path)?)?;
    }
    for (name, key) in schema.environment::<O>() {
        match variable(&name).map(std::ffi::OsString::into_string) {
            // Charts and compose files pass variables on whether or not they are set.
            None => {}
            Some(Ok(text)) if text.is_empty() => {}
            Some(Ok(text)) => layers.text(&key, &text, Source::Environment(name))?,
            Some(Err(_)) => return Err(ConfigError::NotUnicode { name }),
        }
    }
    for (key, text) in args.overrides()? {
        layers.text(&key, &text, Source::Flag)?;
    }
    assemble(&schema, &layers.settings)
}

fn read_file(path: &PathBuf) -> Result<Value, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
    let value: Value = if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        Value::Null
    } else {
        serde_saphyr::from_str(&text).map_err(|e| ConfigError::Syntax { path: path.clone(), message: e.to_string() })?
    };
    let found = match &value {
        Value::Null | Value::Object(_) => return Ok(value),
        Value::Array(_) => "a list",
        _ => "a single value",
    };
    Err(ConfigError::NotATable { path: path.clone(), found })
}

/// Puts the settings over the defaults. When the whole does not fit, finds the first setting that is to blame.
fn assemble<O: Options>(schema: &Schema, settings: &[Setting]) -> Result<O, ConfigError> {
    let mut value = defaults::<O>()?;
    for setting in settings {
        setting.apply(&mut value);
    }
    let Err(error) = O::deserialize(&value) else {
        return O::deserialize(&value).map_err(|e| ConfigError::Combination { message: e.to_string() });
    };
    let mut value = defaults::<O>()?;
    for setting in settings {
        setting.apply(&mut value);
        if let Err(error) = O::deserialize(&value) {
            let message = if schema.is_secret(&setting.path) {
                "it is a secret, so its value is not shown".to_owned()
            } else {
                error.to_string()
            };
            return Err(ConfigError::Invalid { key: setting.key(), place: setting.source.to_string(), message });
        }
    }
    Err(ConfigError::Combination { message: error.to_string() })
}

/// The defaults as a tree. Masked secrets are left out: their mask is not their value.
fn defaults<O: Options>() -> Result<Value, ConfigError> {
    let mut value = serde_json::to_value(O::default()).map_err(|e| ConfigError::Defaults { message: e.to_string() })?;
    layers::remove_masked(&mut value);
    O::deserialize(&value).map_err(|e| ConfigError::Defaults { message: e.to_string() })?;
    Ok(value)
}

/// The options as a configuration file, secrets masked.
pub(crate) fn print(options: &impl Serialize) -> Result<String, ConfigError> {
    serde_saphyr::to_string(options).map_err(|e| ConfigError::Defaults { message: e.to_string() })
}

/// The JSON schema of the options, indented.
pub(crate) fn print_schema<O: Options>() -> String {
    format!("{:#}", Schema::of::<O>().root)
}

/// Printing is what the process was started for; that nobody reads it (a closed pipe) is not an error.
pub(crate) fn write_stdout(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests;
