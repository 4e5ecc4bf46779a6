//! A container's environment.

use super::{
    objects::{Container, EnvSource, KeyRef, Objects},
    volumes::Pod,
};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;

/// The environment as the kubelet makes it: `envFrom`, then `env` in order, `$(NAME)` expanded.
pub(super) fn resolve(pod: &Pod<'_>, container: &Container, objects: &Objects) -> Result<BTreeMap<String, String>> {
    let mut env = BTreeMap::new();
    for from in &container.env_from {
        let data = match (&from.secret_ref, &from.config_map_ref) {
            (Some(secret), None) => objects.secret(&secret.name)?,
            (None, Some(config_map)) => objects.config_map(&config_map.name)?,
            _ => bail!("an envFrom entry that is neither a Secret nor a ConfigMap"),
        };
        for (key, value) in data {
            env.insert(format!("{}{key}", from.prefix), String::from_utf8(value.clone())?);
        }
    }
    for variable in &container.env {
        let value = match &variable.value_from {
            None => Some(expand(variable.value.as_deref().unwrap_or_default(), &env)),
            Some(source) => value_from(pod, source, objects)
                .with_context(|| format!("cannot tell the value of {}", variable.name))?,
        };
        if let Some(value) = value {
            env.insert(variable.name.clone(), value);
        }
    }
    Ok(env)
}

fn value_from(pod: &Pod<'_>, source: &EnvSource, objects: &Objects) -> Result<Option<String>> {
    let key_of = |data: Result<&BTreeMap<String, Vec<u8>>>, key: &KeyRef| -> Result<Option<String>> {
        match data.ok().and_then(|data| data.get(&key.key)) {
            Some(value) => Ok(Some(String::from_utf8(value.clone())?)),
            None if key.optional => Ok(None),
            None => bail!("{} has no key {:?}", key.name, key.key),
        }
    };
    match source {
        EnvSource::Secret(key) => key_of(objects.secret(&key.name), key),
        EnvSource::ConfigMap(key) => key_of(objects.config_map(&key.name), key),
        EnvSource::Field(field) => pod.field(&field.field_path).map(Some),
    }
}

/// `$(NAME)` replaced by a variable that is known; `$$(NAME)` is a literal `$(NAME)`.
pub(super) fn expand(text: &str, env: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let variable = after.strip_prefix('(').and_then(|inner| inner.split_once(')'));
        match variable.and_then(|(name, after)| Some((env.get(name)?, after))) {
            Some((value, after)) => {
                out.push_str(value);
                rest = after;
            }
            None => {
                out.push('$');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::expand;
    use std::collections::BTreeMap;

    #[test]
    fn expands_what_is_known() {
        let env = BTreeMap::from([("IP".to_owned(), "10.0.0.1".to_owned())]);
        assert_eq!(expand("$(IP):8080", &env), "10.0.0.1:8080");
        assert_eq!(expand("$(OTHER) $IP $$(IP) a$", &env), "$(OTHER) $IP $(IP) a$");
    }
}
