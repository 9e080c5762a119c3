//! How the last reload of a file went: the one place that counts reloads.

use crate::clock::wall_seconds;

/// The reloads of one file. Reading it at the start is the first one, and was successful: otherwise nothing would run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reloads {
    pub failures: u64,
    pub is_last_successful: bool,
    /// Unix timestamp of the last one that was successful, in seconds.
    pub last_success_seconds: f64,
}

impl Default for Reloads {
    fn default() -> Self {
        Self { failures: 0, is_last_successful: true, last_success_seconds: wall_seconds() }
    }
}

impl Reloads {
    pub fn record_success(&mut self) {
        self.is_last_successful = true;
        self.last_success_seconds = wall_seconds();
    }

    pub fn record_failure(&mut self) {
        self.is_last_successful = false;
        self.failures += 1;
    }
}
