use std::fmt::Write as _;

use serde_json::Value;

use super::{
    COMMON_ENV,
    schema::{Key, Kind, Schema, lookup},
};
use crate::Options;

const WIDTH: usize = 100;
const INDENT: &str = "      ";

/// Every key with its documentation, environment name and default, as `--help` shows it: for the `after_help` of a
/// process that has its own clap front.
#[must_use]
pub fn settings_help<O: Options>() -> String {
    let schema = Schema::of::<O>();
    let defaults = serde_json::to_value(O::default()).unwrap_or_default();
    let mut text = String::from(
        "Settings: --set KEY=VALUE, or the environment variable, or in the file as nested YAML. Stronger first.\n",
    );
    for key in &schema.keys {
        let _ = writeln!(text, "\n  {}", key.path);
        for line in wrap(&key.doc) {
            let _ = writeln!(text, "{INDENT}{line}");
        }
        if !key.choices.is_empty() {
            let _ = writeln!(text, "{INDENT}One of: {}", key.choices.join(", "));
        }
        let aliases = COMMON_ENV.iter().chain(O::ENV).filter(|(_, path)| *path == key.path).map(|(name, _)| *name);
        let variable = key.variable();
        let names: Vec<&str> =
            std::iter::once(variable.as_str()).chain(aliases.filter(|alias| *alias != variable)).collect();
        let _ = writeln!(text, "{INDENT}[env: {}] [default: {}]", names.join(", "), default(key, &defaults));
    }
    text
}

fn default(key: &Key, defaults: &Value) -> String {
    match lookup(defaults, &key.path) {
        None | Some(Value::Null) => "none".to_owned(),
        Some(Value::String(text)) if text.is_empty() => "\"\"".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) if key.kind == Kind::Strings => {
            let items: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
            if items.is_empty() { "none".to_owned() } else { items.join(",") }
        }
        Some(other) => other.to_string(),
    }
}

/// Paragraphs are kept, lines are filled anew.
fn wrap(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for paragraph in text.split("\n\n") {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            if !line.is_empty() && INDENT.len() + line.len() + 1 + word.len() > WIDTH {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        if !line.is_empty() {
            lines.push(line);
        }
    }
    lines
}
