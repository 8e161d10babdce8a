//! How far an export has come, on a terminal alone and only when it takes its time.

use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

/// Nothing is told before this, and the line changes no more often than every half of it.
const PATIENCE: Duration = Duration::from_secs(1);

/// A line on standard error that changes in place.
pub(super) struct Progress {
    /// None where nobody would see it.
    next: Option<Instant>,
    told: bool,
}

impl Progress {
    pub(super) fn start() -> Self {
        let seen = std::io::stderr().is_terminal();
        Self {
            next: seen.then(|| Instant::now() + PATIENCE),
            told: false,
        }
    }

    pub(super) fn tell(&mut self, records: u64) {
        let now = Instant::now();
        if self.next.is_some_and(|next| now >= next) {
            self.next = Some(now + PATIENCE / 2);
            self.told = true;
            // Nobody may be there to read it.
            let _ = write!(std::io::stderr(), "\r{records} records");
        }
    }

    /// Ends the line, if there is one.
    pub(super) fn over(&mut self) {
        if std::mem::take(&mut self.told) {
            let _ = writeln!(std::io::stderr());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.over();
    }
}
