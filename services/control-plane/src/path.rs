//! Paths as those behind us may take them.

/// Whether somebody might take the path for another one: browsers resolve such segments, and send none.
pub fn has_dot_segment(path: &str) -> bool {
    if !path.contains("/.") && !path.contains(['%', '\\']) {
        return false;
    }
    let is_dots = |segment: &str| {
        let plain = segment.replace("%2e", ".").replace("%2E", ".");
        plain == "." || plain == ".."
    };
    // An encoded separator is one to some.
    let separators = ["%2f", "%2F", "%5c", "%5C", "\\"];
    separators.iter().fold(path.to_owned(), |path, separator| path.replace(separator, "/")).split('/').any(is_dots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_are_found_however_they_are_written() {
        for path in ["/.", "/..", "/a/../b", "/a/%2E%2e/b", "/a/.%2e", "/a/..%2Fb", "/a\\..\\b", "/a%5c.%5Cb"] {
            assert!(has_dot_segment(path), "{path}");
        }
        for path in ["/", "/a.b/c", "/.well-known/x", "/...", "/a/%2Ehidden", "/100%", "/a%2Fb"] {
            assert!(!has_dot_segment(path), "{path}");
        }
    }
}
