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
/// How often a wait for another thread is looked at.
pub(super) const PAUSE: Duration = Duration::from_millis(50);

/// Where the line is shown, and the time since the work began.
struct Screen {
    out: Box<dyn Write + Send>,
    clock: Box<dyn Fn() -> Duration + Send>,
}

/// A line on standard error that changes in place.
pub(super) struct Progress {
    /// None where nobody would see it.
    screen: Option<Screen>,
    /// When the line is shown or changes next.
    next: Duration,
    /// Records that there are to look at, where that is known.
    total: Option<u64>,
    /// Octets of the line that stands.
    told: usize,
}

impl Progress {
    /// Over so many records, where it is known how many there are.
    pub(super) fn start(total: Option<u64>) -> Self {
        let begun = Instant::now();
        let screen = std::io::stderr().is_terminal().then(|| Screen {
            out: Box::new(std::io::stderr()),
            clock: Box::new(move || begun.elapsed()),
        });
        Self::on(screen, total)
    }

    /// Tells nothing: somebody else does.
    pub(super) fn hidden() -> Self {
        Self::on(None, None)
    }

    fn on(screen: Option<Screen>, total: Option<u64>) -> Self {
        Self {
            screen,
            next: PATIENCE,
            total,
            told: 0,
        }
    }

    /// Says that so many records have been looked at, wanted or not.
    pub(super) fn tell(&mut self, records: u64) {
        let total = self.total;
        self.show(|| match total {
            // A ledger that is written grows beyond its checkpoint.
            Some(total) if total > 0 => {
                let part = records.min(total) as f64 / total as f64 * 100.0;
                format!("{records} of {} records, {part:.0} %", total.max(records))
            }
            _ => format!("{records} records"),
        });
    }

    /// Says what is under way, where there is nothing to count.
    pub(super) fn note(&mut self, doing: &str) {
        self.show(|| doing.to_owned());
    }

    fn show(&mut self, line: impl FnOnce() -> String) {
        let Some(screen) = &mut self.screen else { return };
        let now = (screen.clock)();
        if now < self.next {
            return;
        }
        self.next = now + PATIENCE / 2;
        let (line, before) = (line(), self.told);
        self.told = line.len();
        // Nobody may be there to read it. What is longer before is written over.
        let _ = write!(screen.out, "\r{line:<before$}");
        let _ = screen.out.flush();
    }

    /// Ends the line, if there is one.
    pub(super) fn over(&mut self) {
        if std::mem::take(&mut self.told) > 0
            && let Some(screen) = &mut self.screen
        {
            let _ = writeln!(screen.out);
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
    /// Shows how far it is of so many records.
    pub(super) fn new(check: &'a mut dyn RecordCheck, total: Option<u64>) -> Self {
        Self::shown(check, Progress::start(total))
    }

    pub(super) fn shown(check: &'a mut dyn RecordCheck, progress: Progress) -> Self {
        Self {
            check,
            records: 0,
            progress,
        }
    }

    /// The line, for what comes after the records.
    pub(super) fn progress(&mut self) -> &mut Progress {
        &mut self.progress
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, PoisonError};

    use super::*;

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend_from_slice(octets);
            Ok(octets.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Paper {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    /// A line whose clock stands where the test puts it, in milliseconds.
    fn line(total: Option<u64>) -> (Progress, Paper, Arc<Mutex<u64>>) {
        let (paper, time) = (Paper::default(), Arc::new(Mutex::new(0)));
        let now = time.clone();
        let screen = Screen {
            out: Box::new(paper.clone()),
            clock: Box::new(move || Duration::from_millis(*now.lock().unwrap())),
        };
        (Progress::on(Some(screen), total), paper, time)
    }

    #[test]
    fn work_under_a_second_says_nothing_and_the_line_changes_twice_a_second() {
        let (mut progress, paper, time) = line(Some(1000));
        progress.tell(10);
        *time.lock().unwrap() = 999;
        progress.tell(200);
        progress.over();
        assert_eq!(paper.text(), "");
        for (at, records) in [(1000, 250), (1400, 300), (1500, 500), (2000, 1200)] {
            *time.lock().unwrap() = at;
            progress.tell(records);
        }
        *time.lock().unwrap() = 2600;
        progress.note("the rest");
        drop(progress);
        assert_eq!(
            paper.text(),
            "\r250 of 1000 records, 25 %\r500 of 1000 records, 50 %\r1200 of 1200 records, 100 %\rthe rest                   \n"
        );
    }

    #[test]
    fn what_has_no_known_end_is_counted_and_what_nobody_sees_is_silent() {
        for total in [None, Some(0)] {
            let (mut progress, paper, time) = line(total);
            *time.lock().unwrap() = 1500;
            progress.tell(7);
            drop(progress);
            assert_eq!(paper.text(), "\r7 records\n");
        }
        let mut hidden = Progress::hidden();
        hidden.tell(5);
        hidden.note("nothing");
        assert_eq!(hidden.told, 0);
    }
}
