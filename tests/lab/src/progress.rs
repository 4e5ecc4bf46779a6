//! What is being done, as bars on a terminal and as plain lines elsewhere.

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::{
    io::IsTerminal,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// In plain mode a step that goes on says so this often.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// How steps are shown. Everything goes to stderr; stdout stays for results.
#[derive(Clone, Debug)]
pub struct Progress {
    mode: Mode,
}

#[derive(Clone, Debug)]
enum Mode {
    Bars(MultiProgress),
    /// Lines, for steps that take longer than this.
    Lines(Duration),
}

impl Progress {
    /// Bars on a terminal, else a line when a step begins, every ten seconds, and when it ends.
    #[must_use]
    pub fn detect() -> Self {
        if std::io::stderr().is_terminal() {
            Self { mode: Mode::Bars(MultiProgress::new()) }
        } else {
            Self { mode: Mode::Lines(Duration::ZERO) }
        }
    }

    /// Lines, and only for steps that take long enough for somebody to wonder: for tests.
    #[must_use]
    pub fn slow_only() -> Self {
        Self { mode: Mode::Lines(Duration::from_secs(5)) }
    }

    /// Begins a step.
    #[must_use]
    pub fn step(&self, name: impl Into<String>, message: &str) -> Step {
        let name = name.into();
        let show = match &self.mode {
            Mode::Bars(bars) => {
                let bar = bars.add(ProgressBar::new_spinner());
                if let Ok(style) = ProgressStyle::with_template("{spinner:.cyan} {prefix:<26} {elapsed:>4} {wide_msg}")
                {
                    bar.set_style(style);
                }
                bar.set_prefix(name.clone());
                bar.set_message(message.to_owned());
                bar.enable_steady_tick(Duration::from_millis(120));
                Show::Bar(bar)
            }
            Mode::Lines(quiet_for) => {
                if quiet_for.is_zero() {
                    eprintln!("{name}: {message}");
                }
                Show::Lines { quiet_for: *quiet_for, last: Mutex::new(Instant::now()) }
            }
        };
        Step { name, started: Instant::now(), show, ended: false }
    }
}

/// One step under way. It has failed when it is dropped before its end.
#[derive(Debug)]
pub struct Step {
    name: String,
    started: Instant,
    show: Show,
    ended: bool,
}

#[derive(Debug)]
enum Show {
    Bar(ProgressBar),
    Lines { quiet_for: Duration, last: Mutex<Instant> },
}

impl Step {
    /// Says what the step is at.
    pub fn at(&self, message: &str) {
        match &self.show {
            Show::Bar(bar) => bar.set_message(message.to_owned()),
            Show::Lines { quiet_for, last } => {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                if last.elapsed() >= PLAIN_EVERY.max(*quiet_for) {
                    *last = Instant::now();
                    eprintln!("{}: {} s: {message}", self.name, self.started.elapsed().as_secs());
                }
            }
        }
    }

    /// Ends the step well.
    pub fn done(mut self, message: &str) {
        self.end("✓", message);
    }

    /// Ends the step badly.
    pub fn failed(mut self, message: &str) {
        self.end("✗", message);
    }

    fn end(&mut self, sign: &str, message: &str) {
        self.ended = true;
        let seconds = self.started.elapsed().as_secs_f32();
        match &self.show {
            Show::Bar(bar) => {
                if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_msg}") {
                    bar.set_style(style);
                }
                bar.set_prefix(format!("{sign} {:<26} {seconds:>5.1}s", self.name));
                bar.finish_with_message(message.to_owned());
            }
            Show::Lines { quiet_for, .. } => {
                if self.started.elapsed() >= *quiet_for {
                    eprintln!("{}: {message} ({seconds:.1} s)", self.name);
                }
            }
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.ended {
            self.end("✗", "failed");
        }
    }
}
