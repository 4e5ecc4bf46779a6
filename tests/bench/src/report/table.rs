//! A row's figures as text.

use super::{Report, Series, Shown};
const MISSING: &str = "–";

impl Report {
    /// A table: a line per subject, a column per metric, ratios at the end.
    pub(crate) fn table(&self, shown: &Shown<'_>) -> String {
        let has =
            |metric: &&str| shown.subjects.iter().any(|subject| self.series(shown.row, subject, metric).is_some());
        let metrics: Vec<&str> = shown.metrics.iter().copied().filter(has).collect();
        let mut lines = vec![heads(&metrics, shown.bases)];
        for subject in shown.subjects {
            let figures: Vec<_> = metrics.iter().map(|metric| self.series(shown.row, subject, metric)).collect();
            if figures.iter().any(Option::is_some) {
                let mut line = vec![(*subject).to_owned()];
                line.extend(figures.iter().map(|series| series.map_or_else(|| MISSING.to_owned(), figure)));
                line.extend(shown.bases.iter().map(|base| self.ratio(shown, subject, base)));
                lines.push(line);
            }
        }
        let mut text = format!("\n{}: {}\n", shown.row, shown.title);
        let columns = lines.iter().map(Vec::len).max().unwrap_or_default();
        let widths: Vec<usize> = (0..columns)
            .map(|at| lines.iter().filter_map(|line| line.get(at)).map(|cell| cell.chars().count()).max())
            .map(Option::unwrap_or_default)
            .collect();
        for line in &lines {
            for (at, (cell, width)) in line.iter().zip(&widths).enumerate() {
                // The first column is text, the others are numbers.
                text.push_str(&if at == 0 { format!("  {cell:<width$}") } else { format!("  {cell:>width$}") });
            }
            text.push('\n');
        }
        text
    }

    fn ratio(&self, shown: &Shown<'_>, subject: &str, base: &str) -> String {
        let value = |subject: &str| {
            let metric = shown.metrics.first()?;
            self.series(shown.row, subject, metric).map(Series::median)
        };
        match (value(subject), value(base)) {
            (Some(_), Some(0.0)) => MISSING.to_owned(),
            (Some(value), Some(base)) => format!("{:.2}", value / base),
            _ => MISSING.to_owned(),
        }
    }
}

fn heads(metrics: &[&str], bases: &[&str]) -> Vec<String> {
    let mut heads = vec![String::new()];
    heads.extend(metrics.iter().map(|metric| (*metric).to_owned()));
    heads.extend(bases.iter().map(|base| format!("/ {base}")));
    heads
}

/// The median, and half the range: as a part of it, or as it is where the figure is a difference.
fn figure(series: &Series) -> String {
    let value = series.median();
    let digits = match value.abs() {
        0.0..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    };
    if series.values.len() < 2 || value == 0.0 {
        return format!("{value:.digits$}");
    }
    let half = series.spread() / 2.0;
    // A difference may be near nothing, and a part of that says nothing.
    if series.metric.starts_with("added-") {
        return format!("{value:.digits$} ±{half:.digits$}");
    }
    format!("{value:.digits$} ±{:.0}%", half / value.abs() * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_ratios_and_spreads_and_shows_what_is_missing() {
        let mut report = Report::new("proxy");
        for value in [1000.0, 1200.0, 1100.0] {
            report.add("get-1", "direct", "requests/s", value);
        }
        report.add("get-1", "pipeops", "requests/s", 550.0);
        report.add("get-1", "pipeops", "p50-ms", 1.234);
        let table = report.table(&Shown {
            row: "get-1",
            title: "small",
            subjects: &["direct", "pipeops", "chisel"],
            metrics: &["requests/s", "p50-ms"],
            bases: &["direct", "chisel"],
        });
        let expected = "
get-1: small
           requests/s  p50-ms  / direct  / chisel
  direct     1100 ±9%       –      1.00         –
  pipeops         550    1.23      0.50         –
";
        assert_eq!(table, expected);
    }
}
