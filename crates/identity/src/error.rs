//! Why a name was refused: which kind of name, what is wrong with it and what a right one looks like.

use std::fmt;

/// A name that does not follow its standard. The text names the field, the limit and the remedy; it never echoes raw
/// control characters of the input (they are escaped).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {shown}: {problem}")]
pub struct NameError {
    field: &'static str,
    shown: Shown,
    problem: String,
}

/// At most this many bytes of a refused name are shown.
const SHOWN_BYTES_MAX: usize = 80;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Shown(String);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl NameError {
    /// A refusal of `input` as a `field` because of `problem` (a whole clause with its remedy).
    pub fn new(field: &'static str, input: &str, problem: impl Into<String>) -> Self {
        let mut end = input.len().min(SHOWN_BYTES_MAX);
        while !input.is_char_boundary(end) {
            end -= 1;
        }
        let dots = if end < input.len() { "..." } else { "" };
        let head: String = input[..end].escape_debug().collect();
        Self {
            field,
            shown: Shown(format!("\"{head}{dots}\"")),
            problem: problem.into(),
        }
    }

    /// The kind of name that was asked for, such as "SPIFFE ID" or "selector".
    pub fn field(&self) -> &'static str {
        self.field
    }
}
