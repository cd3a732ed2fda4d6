//! How far something is that takes longer than a second, where a person looks on.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What is quicker needs no bar.
const QUICK: Duration = Duration::from_secs(1);
/// How often a bar moves that cannot tell how far it is.
const TICK: Duration = Duration::from_millis(100);

/// A bar on standard error, where that is a terminal. It goes away with this value.
pub(super) struct Progress {
    bar: ProgressBar,
    begun: Instant,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self {
            bar: ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()),
            begun: Instant::now(),
        }
    }

    /// Begins a step that takes so many advances.
    pub(super) fn step(&self, what: &'static str, total: usize) {
        self.bar.set_length(total as u64);
        self.bar.set_position(0);
        self.begin("{msg} {wide_bar} {human_pos} of {human_len}", what);
    }

    /// Begins the last step, of which nobody knows how far it is.
    pub(super) fn last_step(&self, what: &'static str) {
        self.begin("{msg} {spinner} {elapsed}", what);
        self.bar.enable_steady_tick(TICK);
    }

    fn begin(&self, template: &str, what: &'static str) {
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
        self.bar.set_message(what);
        self.show();
    }

    /// Notes that one more is done.
    pub(super) fn advance(&self) {
        self.bar.inc(1);
        self.show();
    }

    fn show(&self) {
        if self.bar.is_hidden() && self.begun.elapsed() > QUICK {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
