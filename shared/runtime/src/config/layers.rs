use std::{
    fmt,
    path::{Path, PathBuf},
};

use protocol::secret::MASK;
use serde_json::{Map, Number, Value};

use super::{
    ConfigError,
    schema::{Kind, Schema},
};

/// Where a setting was made.
#[derive(Debug, Clone)]
pub(super) enum Source {
    File(PathBuf),
    Environment(String),
    Flag,
}

/// One key with its value, and where it came from.
#[derive(Debug)]
pub(super) struct Setting {
    pub path: Vec<String>,
    pub value: Value,
    pub source: Source,
}

/// Settings in the order they are applied: the last one of a key stands.
#[derive(Debug)]
pub(super) struct Layers<'a> {
    schema: &'a Schema,
    pub settings: Vec<Setting>,
}

impl<'a> Layers<'a> {
    pub fn new(schema: &'a Schema) -> Self {
        Self { schema, settings: Vec::new() }
    }

    pub fn file(&mut self, path: &Path, content: &Value) -> Result<(), ConfigError> {
        let source = Source::File(path.to_owned());
        self.table(content, &mut Vec::new(), &source)
    }

    /// A value as text, from the environment or a flag.
    pub fn text(&mut self, key: &str, text: &str, source: Source) -> Result<(), ConfigError> {
        let Some(known) = self.schema.find(key) else { return Err(self.unknown(key, &source)) };
        let kind = if known.path == key { known.kind } else { known.values };
        let value = parse(kind, text).map_err(|message| ConfigError::Invalid {
            key: key.to_owned(),
            place: source.to_string(),
            message: if known.secret { "it cannot be read".to_owned() } else { message },
        })?;
        self.settings.push(Setting { path: key.split('.').map(str::to_owned).collect(), value, source });
        Ok(())
    }

    fn table(&mut self, content: &Value, path: &mut Vec<String>, source: &Source) -> Result<(), ConfigError> {
        match content {
            // `server:` with nothing below it says nothing.
            Value::Null => Ok(()),
            Value::Object(table) => table.iter().try_for_each(|(name, value)| self.entry(name, value, path, source)),
            value => {
                self.settings.push(Setting { path: path.clone(), value: value.clone(), source: source.clone() });
                Ok(())
            }
        }
    }

    fn entry(&mut self, name: &str, value: &Value, path: &mut Vec<String>, source: &Source) -> Result<(), ConfigError> {
        path.push(name.to_owned());
        let key = path.join(".");
        if self.schema.is_section(&key) {
            self.table(value, path, source)?;
        } else if let Some(known) = self.schema.find(&key).filter(|known| known.path == key) {
            if known.secret && value.as_str() == Some(MASK) {
                return Err(ConfigError::Invalid {
                    key,
                    place: source.to_string(),
                    message: "this is what is shown in place of a secret, not the secret".to_owned(),
                });
            }
            self.settings.push(Setting { path: path.clone(), value: value.clone(), source: source.clone() });
        } else {
            return Err(self.unknown(&key, source));
        }
        path.pop();
        Ok(())
    }

    fn unknown(&self, key: &str, source: &Source) -> ConfigError {
        ConfigError::UnknownKey { key: key.to_owned(), place: source.to_string(), nearest: self.schema.nearest(key) }
    }
}

impl Setting {
    pub fn key(&self) -> String {
        self.path.join(".")
    }

    /// Puts the value into `tree`. Tables merge key by key, everything else is replaced.
    pub fn apply(&self, tree: &mut Value) {
        let mut node = tree;
        for part in &self.path {
            if !node.is_object() {
                *node = Value::Object(Map::new());
            }
            let Value::Object(table) = node else { return };
            node = table.entry(part.as_str()).or_insert(Value::Null);
        }
        match (node, &self.value) {
            (Value::Object(table), Value::Object(over)) => {
                table.extend(over.iter().map(|(key, value)| (key.clone(), value.clone())));
            }
            (node, value) => node.clone_from(value),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "the environment variable {name}"),
            Self::Flag => f.write_str("the command line"),
        }
    }
}

/// What does not look like its kind stays text: the message about it then comes from the type it has to become.
fn parse(kind: Kind, text: &str) -> Result<Value, String> {
    let trimmed = text.trim();
    let string = || Value::String(text.to_owned());
    Ok(match kind {
        Kind::String => string(),
        Kind::Integer => {
            let unsigned = trimmed.parse::<u64>().map(Number::from);
            unsigned.or_else(|_| trimmed.parse::<i64>().map(Number::from)).map_or_else(|_| string(), Value::Number)
        }
        Kind::Number => trimmed.parse().ok().and_then(Number::from_f64).map_or_else(string, Value::Number),
        Kind::Boolean => trimmed.parse().map_or_else(|_| string(), Value::Bool),
        Kind::Strings if !trimmed.starts_with('[') => {
            let parts = trimmed.split(',').map(str::trim).filter(|part| !part.is_empty());
            Value::Array(parts.map(|part| Value::String(part.to_owned())).collect())
        }
        Kind::Strings | Kind::Map | Kind::Other => serde_saphyr::from_str(text).map_err(|e| e.to_string())?,
    })
}

/// Drops masked secrets from a tree, so that a mask never becomes a value.
pub(super) fn remove_masked(value: &mut Value) {
    if let Value::Object(table) = value {
        table.retain(|_, value| value.as_str() != Some(MASK));
        table.values_mut().for_each(remove_masked);
    }
}
