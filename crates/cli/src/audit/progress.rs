//! How far a reading of records has come, on a terminal alone and only when it takes its time.

use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

use mintage_ledger::{RecordCheck, ShardBegin, Stored, Vkey};

/// Nothing is told before this, and the line changes no more often than every half of it.
const PATIENCE: Duration = Duration::from_secs(1);
/// Records of a verification between two looks at the clock, a few milliseconds apart.
const LOOK_EVERY: u64 = 1024;

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

/// Lets another check look at each record and counts them.
pub(super) struct Watched<'a> {
    check: &'a mut dyn RecordCheck,
    records: u64,
    progress: Progress,
}

impl<'a> Watched<'a> {
    pub(super) fn new(check: &'a mut dyn RecordCheck) -> Self {
        Self {
            check,
            records: 0,
            progress: Progress::start(),
        }
    }
}

impl RecordCheck for Watched<'_> {
    fn begin(&mut self, begin: &ShardBegin<'_>) -> Result<(), String> {
        self.check.begin(begin)
    }

    fn record(&mut self, key: &Vkey, stored: &Stored) -> Result<(), String> {
        self.records += 1;
        if self.records.is_multiple_of(LOOK_EVERY) {
            self.progress.tell(self.records);
        }
        self.check.record(key, stored)
    }
}
