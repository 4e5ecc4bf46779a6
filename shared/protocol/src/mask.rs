//! Text of a peer, made fit for a log line: secrets masked, length bounded.

use serde_json::Value;

use crate::secret::MASK;

/// Parts of a key's name that make its value a secret.
const SENSITIVE: [&str; 9] =
    ["token", "secret", "password", "passwd", "authorization", "cert", "credential", "private", "key"];

/// Longest text given, in bytes; what follows is cut.
const MAX: usize = 2048;

/// `text` with the value of every key that may hold a secret replaced by `***`, cut after 2 KiB.
///
/// Keys are those that contain `token`, `secret`, `password`, `passwd`, `authorization`, `cert`, `credential`, `private` or
/// `key`, in any case and at any depth, also in JSON or YAML that is itself a string value. Text that is not valid JSON (cut off, say) is
/// masked by the look of it: too much rather than too little.
pub fn mask_json(text: &str) -> String {
    let masked = match serde_json::from_str::<Value>(text) {
        Ok(mut value) => {
            mask_value(&mut value);
            value.to_string()
        }
        Err(_) => mask_text(cut(text, MAX).0),
    };
    match cut(&masked, MAX) {
        (_, 0) if masked.len() == text.len().min(MAX) && text.len() > MAX => format!("{masked}…"),
        (_, 0) => masked,
        (kept, lost) => format!("{kept}… ({lost} bytes more)"),
    }
}

fn is_sensitive(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    SENSITIVE.iter().any(|word| key.contains(word))
}

fn mask_value(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                if is_sensitive(key) {
                    if !value.is_null() {
                        *value = Value::String(MASK.into());
                    }
                } else {
                    mask_value(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(mask_value),
        Value::String(text) => *text = mask_text(text),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Masks what follows a sensitive word and `:` or `=`: a quoted string to its end, an object or list to the end of the
/// text, anything else to the next delimiter.
fn mask_text(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(value_at) = next_secret(&lower, at) {
        out.push_str(text.get(at..value_at).unwrap_or_default());
        out.push_str(MASK);
        at = value_at + secret_length(text.get(value_at..).unwrap_or_default());
    }
    out.push_str(text.get(at..).unwrap_or_default());
    out
}

/// Where the next secret value at or after `from` begins.
fn next_secret(lower: &str, from: usize) -> Option<usize> {
    let mut from = from;
    loop {
        let rest = lower.get(from..)?;
        let (word_at, word) = SENSITIVE.iter().filter_map(|w| rest.find(w).map(|at| (at, *w))).min()?;
        let after_word = from + word_at + word.len();
        let tail = lower.get(after_word..)?;
        let value = tail
            .trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-')
            .trim_start_matches(['"', '\'', '\\'])
            .trim_start();
        if let Some(value) = value.strip_prefix([':', '=']) {
            let value = value.trim_start();
            return Some(lower.len() - value.len());
        }
        from = after_word;
    }
}

fn secret_length(value: &str) -> usize {
    let quote = value.trim_start_matches('\\');
    match quote.chars().next() {
        Some(q @ ('"' | '\'')) => {
            let opening = value.len() - quote.len() + 1;
            let mut escaped = false;
            for (at, c) in value.char_indices().skip_while(|(at, _)| *at < opening) {
                if c == q && (!escaped || opening > 1) {
                    return at + 1;
                }
                escaped = c == '\\' && !escaped;
            }
            value.len()
        }
        Some('{' | '[') => value.len(),
        // `Authorization: Bearer x`: a scheme and what follows it are one value, so only line and list ends delimit.
        _ => value.find(['\n', '\r', ',', ';', '&', '}', ']', '"']).unwrap_or(value.len()),
    }
}

fn cut(text: &str, max: usize) -> (&str, usize) {
    let kept = text.get(..text.floor_char_boundary(max)).unwrap_or(text);
    (kept, text.len() - kept.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_of_sensitive_keys_are_masked_at_any_depth() {
        let text = r#"{"cluster_id":"c","token":"T1","a":[{"Grafana_Password":"T2","client-certificate-data":{"x":"T3"}}],"secret":null}"#;
        assert_eq!(
            mask_json(text),
            r#"{"a":[{"Grafana_Password":"***","client-certificate-data":"***"}],"cluster_id":"c","secret":null,"token":"***"}"#
        );
        let nested = mask_json(r#"{"response":"{\"token\":\"T1\",\"id\":\"c\"}"}"#);
        assert_eq!(nested, r#"{"response":"{\"token\":***,\"id\":\"c\"}"}"#);
    }

    #[test]
    fn a_kubeconfig_shows_neither_token_nor_key() {
        let text = r#"{"kubeconfig":"users:\n- name: a\n  user:\n    token: T1\n    client-key-data: T2\n"}"#;
        let masked = mask_json(text);
        assert!(!masked.contains("T1") && !masked.contains("T2") && masked.contains("name: a"), "{masked}");
    }

    #[test]
    fn text_that_is_not_json_is_masked_by_its_look() {
        assert_eq!(mask_json(r#"{"cluster_id":"c","token":"T1T1"#), r#"{"cluster_id":"c","token":***"#);
        assert_eq!(mask_json(r#"{"token" : "T1\"T1", "id":1"#), r#"{"token" : ***, "id":1"#);
        assert_eq!(mask_json(r#"{"token":{"v":"T1"},"id":1"#), r#"{"token":***"#);
        assert_eq!(mask_json("Authorization: Bearer T1\nx"), "Authorization: ***\nx");
        assert_eq!(mask_json("error=no&access_token=T1&x=y"), "error=no&access_token=***&x=y");
        assert_eq!(mask_json("the token has expired"), "the token has expired");
        assert_eq!(mask_json("<html>502</html>"), "<html>502</html>");
    }

    #[test]
    fn the_result_is_bounded() {
        let masked = mask_json(&"x".repeat(10_000));
        assert!(masked.len() < MAX + 64, "{}", masked.len());
        assert!(masked.ends_with('…'), "{masked}");
        let json = mask_json(&format!(r#"{{"a":"{}"}}"#, "ü".repeat(5_000)));
        assert!(json.len() < MAX + 64 && json.contains("bytes more"));
    }

    proptest! {
        #[test]
        fn a_secret_is_never_shown(
            before in "(?s)[^sS]{0,20}", key in "[a-z_]{0,6}(token|SECRET|password|cert)[a-z_]{0,6}", after in "(?s).{0,20}",
            keep in 0usize..200,
        ) {
            let json = serde_json::to_string(&serde_json::Map::from_iter([
                ("x".to_owned(), Value::String(before)), (key, Value::String("SEKRIT".into())), ("z".to_owned(), Value::String(after)),
            ])).unwrap();
            prop_assert!(!mask_json(&json).contains("SEKRIT"), "{}", mask_json(&json));
            let cut = &json[..json.floor_char_boundary(keep.min(json.len()))];
            prop_assert!(!mask_json(cut).contains("SEKRI"), "{}", mask_json(cut));
        }

        #[test]
        fn no_text_makes_it_panic(text in "(?s).{0,200}") {
            let _ = mask_json(&text);
        }

        #[test]
        fn no_text_of_quotes_and_keys_makes_it_panic(text in r#"(token|"|'|\\|:|=|\{|\[|ü|,| |x){0,40}"#) {
            let _ = mask_json(&text);
        }
    }
}
