//! How far a command is, on a terminal.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use crate::backfill::Progress;

/// Time between two drawings.
const INTERVAL: Duration = Duration::from_millis(200);

const COLUMNS: u64 = 40;

/// A progress bar on standard error, if that is a terminal.
pub(super) struct ProgressBar {
    is_shown: bool,
    next: Instant,
}

impl ProgressBar {
    pub fn new() -> Self {
        Self { is_shown: io::stderr().is_terminal(), next: Instant::now() }
    }

    pub fn clear(&self) {
        if self.is_shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

impl Progress for ProgressBar {
    fn report(&mut self, what: &'static str, done: u64, all: u64) {
        let now = Instant::now();
        if self.is_shown && now >= self.next {
            self.next = now + INTERVAL;
            // A terminal that takes nothing is no reason to fail.
            let _ = write!(io::stderr(), "\r{}", drawn(what, done, all));
        }
    }
}

/// Draws `done` of `all`. Every drawing has the same length, so that each covers the one before.
fn drawn(what: &str, done: u64, all: u64) -> String {
    let of = |parts: u64| u128::from(done.min(all)) * u128::from(parts) / u128::from(all.max(1));
    let (filled, percent) = (of(COLUMNS) as usize, of(100));
    let empty = COLUMNS as usize - filled;
    format!("{what:<8} [{}{}] {percent:>3} %", "#".repeat(filled), " ".repeat(empty))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_shows_the_share_that_is_done_and_keeps_its_length() {
        let [none, half, all] = ["", &"#".repeat(20), &"#".repeat(40)].map(|filled| format!("[{filled:<40}]"));
        let huge = u64::MAX;
        for (done, of, bar, percent) in [
            (0, 0, &none, "  0 %"),
            (0, 7, &none, "  0 %"),
            (5_000, 10_000, &half, " 50 %"),
            (huge / 2 + 1, huge, &half, " 50 %"),
            (huge, huge, &all, "100 %"),
            // Keys that grow while they are read.
            (9, 7, &all, "100 %"),
        ] {
            assert_eq!(drawn("reading", done, of), format!("reading  {bar} {percent}"), "{done} of {of}");
        }
        assert_eq!(drawn("writing", 1, 3).len(), drawn("reading", 3, 3).len());
    }
}
