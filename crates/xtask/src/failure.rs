//! The one error of this program: a sentence for the person at the terminal.

use std::fmt::Display;

/// Why a command stopped, in words that name the file or the tool.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) String);

impl Failure {
    /// What was being done, and what went wrong with it.
    pub(crate) fn new(doing: impl Display, cause: impl Display) -> Self {
        Self(format!("{doing}: {cause}"))
    }
}
