//! Counting what `cargo test` reports.

/// How many tests passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) passed: usize,
    pub(super) failed: usize,
}

/// Reads `cargo test`'s output line by line.
#[derive(Debug, Default)]
pub(super) struct Counter {
    counts: Counts,
    /// The test binary that has started and not yet told its result, and what it has said.
    open: Option<Open>,
    /// Whether compiler errors have been seen: they are shown as they come.
    compiler_error: bool,
}

#[derive(Debug)]
struct Open {
    binary: String,
    lines: Vec<String>,
}

impl Counter {
    /// Takes a line; gives the lines to show now.
    pub(super) fn line(&mut self, line: &str) -> Vec<String> {
        let trimmed = line.trim_start();
        if let Some(binary) = trimmed.strip_prefix("Running ").or_else(|| trimmed.strip_prefix("Doc-tests ")) {
            let shown = self.close();
            self.compiler_error = false;
            self.open = Some(Open { binary: binary.to_owned(), lines: Vec::new() });
            return shown;
        }
        if let Some(result) = line.strip_prefix("test result: ") {
            return self.result(result);
        }
        if line.starts_with("error") && self.open.is_none() {
            self.compiler_error = true;
        }
        match &mut self.open {
            Some(open) => open.lines.push(line.to_owned()),
            None if self.compiler_error => return vec![line.to_owned()],
            None => {}
        }
        Vec::new()
    }

    /// The counts when `cargo test` has ended. What failed without a test that failed is counted as one: a crash, a build.
    pub(super) fn end(mut self, success: bool) -> Counts {
        for line in self.close() {
            println!("{line}");
        }
        if !success && self.counts.failed == 0 {
            self.counts.failed = 1;
        }
        self.counts
    }

    /// `ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s`
    fn result(&mut self, result: &str) -> Vec<String> {
        let count = |name: &str| {
            let number = result.split([';', '.']).find_map(|part| part.trim().strip_suffix(name));
            number.and_then(|number| number.trim().parse::<usize>().ok()).unwrap_or(0)
        };
        let (passed, failed) = (count("passed"), count("failed"));
        self.counts.passed += passed;
        self.counts.failed += failed;
        let Some(open) = self.open.take() else { return Vec::new() };
        if failed == 0 {
            return Vec::new();
        }
        let first = open.lines.iter().position(|line| line == "failures:").unwrap_or(0);
        let mut shown = vec![format!("{failed} failed in {}", open.binary)];
        shown.extend(open.lines.into_iter().skip(first));
        shown
    }

    /// A binary that ends without a result has crashed.
    fn close(&mut self) -> Vec<String> {
        let Some(open) = self.open.take() else { return Vec::new() };
        self.counts.failed += 1;
        let mut shown = vec![format!("no result from {}", open.binary)];
        shown.extend(open.lines);
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::{Counter, Counts};

    fn counts(text: &str, success: bool) -> (Counts, String) {
        let mut counter = Counter::default();
        let shown: Vec<String> = text.lines().flat_map(|line| counter.line(line)).collect();
        (counter.end(success), shown.join("\n"))
    }

    #[test]
    fn sums_all_binaries() {
        let text = "   Compiling a v0.1.0\n     Running unittests src/lib.rs (target/a)\n\nrunning 2 tests\ntest a ... ok\ntest b ... ok\n\n\
                    test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.00s\n\n\
                    \x20  Doc-tests a\n\nrunning 1 test\ntest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n";
        assert_eq!(counts(text, true).0, Counts { passed: 3, failed: 0 });
    }

    #[test]
    fn shows_what_failed() {
        let text = "     Running tests/x.rs (target/x)\ntest a ... FAILED\ntest b ... ok\n\nfailures:\n\n---- a stdout ----\nboom\n\n\
                    test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\nerror: test failed\n";
        let (counts, shown) = counts(text, false);
        assert_eq!(counts, Counts { passed: 1, failed: 1 });
        assert!(shown.contains("boom") && shown.contains("tests/x.rs") && !shown.contains("test b"), "{shown}");
    }

    #[test]
    fn a_crash_and_a_build_error_count() {
        let crash = "     Running tests/x.rs (target/x)\ntest a ... ok\n     Running tests/y.rs (target/y)\n\
                     test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n";
        assert_eq!(counts(crash, false).0, Counts { passed: 1, failed: 1 });
        let (build, shown) = counts("   Compiling a v0.1.0\nerror[E0425]: cannot find value\n --> src/lib.rs\n", false);
        assert_eq!(build, Counts { passed: 0, failed: 1 });
        assert!(shown.contains("E0425") && shown.contains("src/lib.rs"), "{shown}");
    }
}
