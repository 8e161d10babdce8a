//! Findings as lines and as JSON.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

/// How one look ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works now, or need not work, and deserves a look.
    Warn,
    /// It does not work.
    Fail,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at, in one word or two.
    pub check: &'static str,
    /// How it ended.
    pub level: Level,
    /// What was seen.
    pub told: String,
    /// What to do; empty when nothing is to be done.
    pub advice: String,
}

/// All looks, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    findings: Vec<Finding>,
}

impl Report {
    /// One failure and nothing else.
    pub fn failure(check: &'static str, told: String, advice: &str) -> Self {
        let mut notes = Notes::default();
        notes.fail(check, told, advice);
        notes.report()
    }

    /// The looks.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Whether any look failed.
    pub fn failed(&self) -> bool {
        self.findings.iter().any(|finding| finding.level == Level::Fail)
    }

    /// One line for each look, and one with what to do.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            let mark = format!("[{}]", finding.level.word());
            let _ = writeln!(text, "{mark:<6} {}: {}", finding.check, plain(&finding.told));
            if !finding.advice.is_empty() {
                let _ = writeln!(text, "       {}", plain(&finding.advice));
            }
        }
        text
    }

    /// The same for programs, without its schema version.
    pub fn json(&self) -> Value {
        let finding = |finding: &Finding| {
            json!({
                "check": finding.check,
                "level": finding.level.word(),
                "told": finding.told,
                "advice": finding.advice,
            })
        };
        json!({
            "ok": !self.failed(),
            "findings": self.findings.iter().map(finding).collect::<Vec<_>>(),
        })
    }
}

/// File names and other machines' words may hold what a terminal would act on.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A duration in its largest unit, for people.
pub(super) fn span(of: Duration) -> String {
    match of.as_secs() {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7199 => format!("{} min", seconds / 60),
        seconds @ 7200..=172_799 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// Findings as they come.
#[derive(Default)]
pub(super) struct Notes(Vec<Finding>);

impl Notes {
    pub(super) fn ok(&mut self, check: &'static str, told: String) {
        self.note(check, Level::Ok, told, "");
    }

    pub(super) fn warn(&mut self, check: &'static str, told: String, advice: &str) {
        self.note(check, Level::Warn, told, advice);
    }

    pub(super) fn fail(&mut self, check: &'static str, told: String, advice: &str) {
        self.note(check, Level::Fail, told, advice);
    }

    fn note(&mut self, check: &'static str, level: Level, told: String, advice: &str) {
        self.0.push(Finding {
            check,
            level,
            told,
            advice: advice.to_owned(),
        });
    }

    pub(super) fn report(self) -> Report {
        Report { findings: self.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_lines_with_advice_and_fails_only_by_a_failure() {
        let mut notes = Notes::default();
        notes.ok("config", "valid".to_owned());
        notes.warn("map", "old\n\u{1b}[31m".to_owned(), "start the agent");
        let report = notes.report();
        assert_eq!(
            report.text(),
            "[ok]   config: valid\n[warn] map: old  [31m\n       start the agent\n"
        );
        assert!(!report.failed());
        assert_eq!(report.json()["findings"][1]["level"], "warn");
        let failed = Report::failure("config", "wrong".to_owned(), "mend it");
        assert!(failed.failed() && failed.json()["ok"] == false);
    }

    #[test]
    fn spans_are_told_in_one_unit() {
        for (seconds, told) in [
            (0, "0 s"),
            (119, "119 s"),
            (120, "2 min"),
            (7200, "2 h"),
            (864_000, "10 days"),
        ] {
            assert_eq!(span(Duration::from_secs(seconds)), told);
        }
    }
}
