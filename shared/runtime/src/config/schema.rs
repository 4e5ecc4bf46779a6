use serde_json::{Map, Value};

use super::{COMMON_ENV, ENV_PREFIX, nearest::nearest};
use crate::Options;

/// How deep a schema may nest before it is taken for one that contains itself.
const MAX_DEPTH: usize = 16;

/// A JSON schema of options, read as the list of their keys.
#[derive(Debug)]
pub(super) struct Schema {
    pub root: Value,
    pub keys: Vec<Key>,
}

/// One setting: a value that has no settings of its own below it.
#[derive(Debug)]
pub(super) struct Key {
    /// Such as `server.listen`.
    pub path: String,
    pub doc: String,
    pub kind: Kind,
    /// Of a map's values.
    pub values: Kind,
    pub secret: bool,
    /// The values it can take, where those are few.
    pub choices: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    String,
    Integer,
    Number,
    Boolean,
    /// Of strings: in the environment, separated by commas.
    Strings,
    /// A table with free keys; `key.anything` can be set too.
    Map,
    /// Anything else: YAML in the environment.
    Other,
}

impl Schema {
    pub fn of<O: Options>() -> Self {
        let root: Value = schemars::schema_for!(O).into();
        let mut keys = Vec::new();
        collect(&root, &root, "", "", 0, &mut keys);
        Self { root, keys }
    }

    /// Every environment variable that is read with the key it sets, weakest first.
    pub fn environment<O: Options>(&self) -> Vec<(String, String)> {
        let aliases = COMMON_ENV.iter().chain(O::ENV).filter(|(_, key)| self.keys.iter().any(|k| k.path == *key));
        let aliases = aliases.map(|(name, key)| ((*name).to_owned(), (*key).to_owned()));
        aliases.chain(self.keys.iter().map(|key| (key.variable(), key.path.clone()))).collect()
    }

    /// The key at `path`, or the map that `path` leads into.
    pub fn find(&self, path: &str) -> Option<&Key> {
        self.keys.iter().find(|key| {
            key.path == path
                || (key.kind == Kind::Map
                    && path.strip_prefix(key.path.as_str()).is_some_and(|rest| rest.starts_with('.')))
        })
    }

    /// True for a path that has keys below it.
    pub fn is_section(&self, path: &str) -> bool {
        self.keys.iter().any(|key| key.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
    }

    pub fn is_secret(&self, path: &[String]) -> bool {
        self.find(&path.join(".")).is_some_and(|key| key.secret)
    }

    pub fn nearest(&self, path: &str) -> Option<String> {
        nearest(path, self.keys.iter().map(|key| key.path.as_str())).map(str::to_owned)
    }
}

impl Key {
    pub fn variable(&self) -> String {
        format!("{ENV_PREFIX}{}", self.path.replace(['.', '-'], "_").to_uppercase())
    }
}

fn collect(root: &Value, node: &Value, path: &str, doc: &str, depth: usize, keys: &mut Vec<Key>) {
    let resolved = resolve(root, node);
    let doc = if doc.is_empty() { description(resolved) } else { doc };
    if let Some(properties) = resolved.get("properties").and_then(Value::as_object).filter(|_| depth < MAX_DEPTH)
        && resolved.get("oneOf").is_none()
    {
        for (name, property) in properties {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            collect(root, property, &path, description(property), depth + 1, keys);
        }
        return;
    }
    if path.is_empty() {
        return;
    }
    keys.push(Key {
        path: path.to_owned(),
        doc: doc.to_owned(),
        kind: kind(root, resolved),
        values: resolved.get("additionalProperties").map_or(Kind::Other, |values| kind(root, resolve(root, values))),
        secret: resolved.get("writeOnly").and_then(Value::as_bool).unwrap_or_default(),
        choices: choices(resolved),
    });
}

/// Follows references and takes the `null` off an optional.
fn resolve<'a>(root: &'a Value, node: &'a Value) -> &'a Value {
    let mut node = node;
    for _ in 0..MAX_DEPTH {
        let next = if let Some(reference) = node.get("$ref").and_then(Value::as_str) {
            reference.strip_prefix('#').and_then(|pointer| root.pointer(pointer))
        } else if let Some(variants) = node.get("anyOf").and_then(Value::as_array) {
            let mut some = variants.iter().filter(|v| v.get("type").and_then(Value::as_str) != Some("null"));
            some.next().filter(|_| some.next().is_none())
        } else {
            None
        };
        match next {
            Some(next) => node = next,
            None => break,
        }
    }
    node
}

fn description(node: &Value) -> &str {
    node.get("description").and_then(Value::as_str).unwrap_or_default()
}

/// The one type of a schema, `null` aside.
fn type_of(node: &Value) -> Option<&str> {
    match node.get("type")? {
        Value::String(one) => Some(one),
        Value::Array(several) => {
            let mut some = several.iter().filter_map(Value::as_str).filter(|name| *name != "null");
            some.next().filter(|_| some.next().is_none())
        }
        _ => None,
    }
}

fn kind(root: &Value, node: &Value) -> Kind {
    match type_of(node) {
        Some("string") => Kind::String,
        Some("integer") => Kind::Integer,
        Some("number") => Kind::Number,
        Some("boolean") => Kind::Boolean,
        Some("array") => match node.get("items").map(|items| kind(root, resolve(root, items))) {
            Some(Kind::String) => Kind::Strings,
            _ => Kind::Other,
        },
        Some("object") if node.get("additionalProperties").is_some_and(|p| p.as_bool() != Some(false)) => Kind::Map,
        None if !choices(node).is_empty() => Kind::String,
        _ => Kind::Other,
    }
}

/// The values of an enum of strings: `enum`, or `oneOf` with a `const` each where the variants are documented.
fn choices(node: &Value) -> Vec<String> {
    let strings = |values: &Vec<Value>| values.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>();
    if let Some(values) = node.get("enum").and_then(Value::as_array) {
        return strings(values);
    }
    let Some(variants) = node.get("oneOf").and_then(Value::as_array) else { return Vec::new() };
    let mut all = Vec::new();
    for variant in variants {
        match (variant.get("const").and_then(Value::as_str), variant.get("enum").and_then(Value::as_array)) {
            (Some(one), _) => all.push(one.to_owned()),
            (None, Some(several)) => all.extend(strings(several)),
            (None, None) => return Vec::new(),
        }
    }
    all
}

/// The value at `path` in a tree of tables.
pub(super) fn lookup<'a>(tree: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(tree, |node, part| node.as_object().and_then(|table: &Map<_, _>| table.get(part)))
}
