//! What differs from one run of a command to the next.

use regex::Regex;
use std::sync::LazyLock;

/// What is volatile, and what stands for it. Nothing else is hidden.
static VOLATILE: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        // Times: RFC 3339, helm's table, diff's header, helm's status.
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "<time>"),
        (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+ [+-]\d{4}( [A-Z]+ *)?", "<time>"),
        // Above helm's times, which are shorter when their last digits are zeros.
        (r"UPDATED +\t", "UPDATED\t"),
        (r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun) [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}", "<time>"),
        (r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d [+-]\d{4}", "<time>"),
        (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "<uid>"),
        // The quotes of JSON within JSON have backslashes before them.
        (r#"(resourceVersion\\*"?: ?\\*")\d+"#, "$1<version>"),
        // A command in a container has an id of its own.
        (r"\b[0-9a-f]{64}\b", "<id>"),
        // Ages, in tables and in `describe`. Their width moves what stands behind them.
        (r"(?m)(^Age: +)(\d+[smhd])+$", "$1<age>"),
        (r"(?m) {2,}((\d+[smhd])+|<unknown>)( {2,}|$)", "  <age>  "),
        (r"(?m) {2,}AGE( {2,}|$)", "  AGE  "),
        // The files that `kubectl diff` compares, and klog's time and process.
        (r"/(LIVE|MERGED)-\d+", "/$1-<n>"),
        (r"(?m)^([EWI])\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ ", "$1 "),
        // client-go before 0.36 reads before it has made its streams, and on a busy machine says so of the empty messages that
        // open them. Lost output shows by itself.
        (r"(?m)^E websocket\.go:\d+\] Unknown stream id \d+, discarding message\n", ""),
    ]
    .into_iter()
    .map(|(pattern, stand_in)| (Regex::new(pattern), stand_in))
    .filter_map(|(pattern, stand_in)| pattern.ok().map(|pattern| (pattern, stand_in)))
    .collect()
});

/// `text` with ages, times, resource versions, uids, ids of containers and the names of temporary files replaced.
#[must_use]
pub fn normalise(text: &str) -> String {
    VOLATILE
        .iter()
        .fold(text.to_owned(), |text, (pattern, stand_in)| pattern.replace_all(&text, *stand_in).into_owned())
}

#[cfg(test)]
mod tests {
    use super::{VOLATILE, normalise};

    #[test]
    fn every_pattern_is_one() {
        assert_eq!(VOLATILE.len(), 14);
    }

    #[test]
    fn hides_what_is_volatile_and_nothing_else() {
        let table = "NAME   DATA   AGE\na      1      59s\nb      12     2m5s\n";
        assert_eq!(normalise(table), "NAME   DATA  AGE  \na      1  <age>  \nb      12  <age>  \n");
        let one = r#"{"name":"a","uid":"7b0c1f6e-0d0b-4a4e-9a53-2f8f0f6f7f00","resourceVersion":"812","n":812}"#;
        assert_eq!(normalise(one), r#"{"name":"a","uid":"<uid>","resourceVersion":"<version>","n":812}"#);
        assert_eq!(normalise("  creationTimestamp: \"2026-11-21T08:30:01Z\""), "  creationTimestamp: \"<time>\"");
        assert_eq!(normalise("replicas: 5s5 10s"), "replicas: 5s5 10s");
        let discarded = "E1126 23:15:56.731659   22900 websocket.go:297] Unknown stream id 1, discarding message\n";
        assert_eq!(normalise(&format!("{discarded}error: it ends\n")), "error: it ends\n");
    }
}
