//! Progress on standard error: lines that count seconds on a terminal, plain lines elsewhere.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Where progress goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Progress {
    /// Nowhere, but for what takes minutes: a build is told all the same, once, because a test
    /// that says nothing for ten minutes looks hung.
    #[default]
    Quiet,
    /// To standard error.
    Visible,
}

impl Progress {
    /// Something to know that is not a step.
    pub fn note(self, text: &str) {
        // Not eprintln!, which the test harness swallows.
        let _ = writeln!(std::io::stderr(), "{text}");
    }

    /// Begins a step. It ends with [`Step::done`]; a step that is dropped has failed and leaves no
    /// line, the error speaks for it.
    pub fn step(self, text: &str) -> Step {
        let start = Instant::now();
        if self == Self::Quiet {
            return Step { start, bar: None, visible: false };
        }
        if !std::io::stderr().is_terminal() {
            self.note(&format!("{text} ..."));
            return Step { start, bar: None, visible: true };
        }
        let style = ProgressStyle::with_template("  {spinner} {msg} {elapsed:.dim}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(style);
        bar.set_message(text.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        Step { start, bar: Some(bar), visible: true }
    }
}

/// A step under way.
#[derive(Debug)]
pub struct Step {
    start: Instant,
    bar: Option<ProgressBar>,
    visible: bool,
}

impl Step {
    /// Ends the step, and says in how many seconds.
    pub fn done(mut self, text: &str) {
        let line = format!("  {text} ({:.1} s)", self.start.elapsed().as_secs_f64());
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        if self.visible {
            Progress::Visible.note(&line);
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
