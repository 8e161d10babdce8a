//! How a command ends: 0 done, 1 our side or the caller's, 2 the other side's, 3 the answer is no.

use std::{fmt::Display, path::Path};

use mintage_policy::TomlProblem;
use tonic::{Code, Status};

use crate::text::printable;

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// A wrong argument, or something on this machine.
    #[error("{0}")]
    Local(String),
    /// Files of the caller, each with its place.
    #[error("{}", lines(.0))]
    Files(Vec<TomlProblem>),
    /// The CA refused, failed or cannot be reached.
    #[error("{0}")]
    Remote(String),
    /// Everything worked, and the answer is no: not found, not proven, not the same.
    #[error("{0}")]
    No(String),
}

fn lines(problems: &[TomlProblem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

impl Failure {
    /// Something on this machine.
    pub(crate) fn local(text: impl Display) -> Self {
        Self::Local(text.to_string())
    }

    /// A file or folder that cannot be used.
    pub(crate) fn file(path: &Path, problem: impl Display) -> Self {
        Self::Local(format!("{}: {problem}", path.display()))
    }

    /// The same failure, with more said of it.
    pub(crate) fn and(self, more: &str) -> Self {
        let said = |text: String| format!("{text}; {more}");
        match self {
            Self::Local(text) => Self::Local(said(text)),
            Self::Files(problems) => Self::Files(problems),
            Self::Remote(text) => Self::Remote(said(text)),
            Self::No(text) => Self::No(said(text)),
        }
    }

    /// The exit code.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Local(_) | Self::Files(_) => 1,
            Self::Remote(_) => 2,
            Self::No(_) => 3,
        }
    }

    /// What goes to standard error: one line, or one for each problem of a file.
    pub(crate) fn report(&self) -> String {
        let told = self.to_string();
        let lines = told.split('\n').map(|line| format!("mintage: {}", printable(line)));
        match self {
            Self::Files(_) => lines.collect::<Vec<_>>().join("\n"),
            _ => format!("mintage: {}", printable(&told)),
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let message = status.message();
        let message = if message.is_empty() {
            status.code().description()
        } else {
            message
        };
        match status.code() {
            Code::NotFound => Self::No(message.to_owned()),
            Code::Unavailable | Code::ResourceExhausted | Code::Aborted => {
                Self::Remote(format!("the CA cannot do this now: {message}; try again"))
            }
            Code::DeadlineExceeded | Code::Cancelled => Self::Remote(format!(
                "the CA did not answer in time: {message}; look at `mintage ca status`"
            )),
            Code::Internal | Code::Unknown | Code::DataLoss => {
                Self::Remote(format!("the CA failed: {message}; its log tells more"))
            }
            Code::Unimplemented => Self::Remote(format!(
                "the CA does not know this call: {message}; it is older than this program"
            )),
            _ => Self::Remote(format!("the CA refused: {message}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_tell_whose_answer_it_is() {
        for (failure, code) in [
            (Failure::local("x"), 1),
            (Failure::Files(Vec::new()), 1),
            (Status::invalid_argument("ttl").into(), 2),
            (Status::unavailable("x").into(), 2),
            (Status::internal("x").into(), 2),
            (Status::not_found("x").into(), 3),
            (Failure::No("x".into()), 3),
        ] {
            assert_eq!(failure.code(), code, "{failure:?}");
        }
    }

    #[test]
    fn a_failure_is_one_line_whatever_the_other_side_says() {
        let told = Failure::from(Status::invalid_argument("bad\n\u{1b}[31mname")).report();
        assert_eq!(told.lines().count(), 1, "{told}");
        assert!(!told.chars().any(char::is_control), "{told:?}");
        assert!(Failure::from(Status::internal("")).report().contains("log tells more"));
    }

    #[test]
    fn each_problem_of_a_file_has_its_line() {
        let problem = |line| TomlProblem {
            line,
            ..TomlProblem::of_file(Path::new("e.toml"), "wrong\nkey")
        };
        let told = Failure::Files(vec![problem(3), problem(9)]).report();
        let lines: Vec<_> = told.lines().collect();
        assert_eq!(lines.len(), 2, "{told}");
        assert!(lines[0].starts_with("mintage: e.toml:3: ") && lines[1].starts_with("mintage: e.toml:9: "));
    }
}
