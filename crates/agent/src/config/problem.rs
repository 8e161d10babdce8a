//! What is wrong in a configuration file, told so that it can be put right: file, line, and the nearest valid key.

use std::{fmt, ops::Range, path::Path};

/// Longest text of the file that a message repeats: a message is a line, not a dump.
const QUOTED_CHARS_MAX: usize = 300;

/// One problem of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TomlProblem {
    file: String,
    line: usize,
    message: String,
}

impl TomlProblem {
    /// A problem of the whole file.
    pub(crate) fn of_file(file: &Path, message: impl fmt::Display) -> Self {
        Self {
            file: printable(&file.display().to_string()),
            line: 0,
            message: printable(&message.to_string()),
        }
    }

    /// A problem at a byte range of `text`, the content of `file`.
    pub(crate) fn at(file: &Path, text: &str, span: &Range<usize>, message: impl fmt::Display) -> Self {
        let end = span.start.min(text.len());
        Self {
            line: text.as_bytes()[..end].iter().filter(|byte| **byte == b'\n').count() + 1,
            ..Self::of_file(file, message)
        }
    }

    /// What `toml` found while it read `text`: an unknown key comes with the nearest valid one.
    pub(crate) fn from_toml(file: &Path, text: &str, error: &toml::de::Error) -> Self {
        let message = match unknown_key(error.message()) {
            Some((given, known)) => unknown_key_message(given, &known),
            None => error.message().replace('\n', "; "),
        };
        match error.span() {
            Some(span) => Self::at(file, text, &span, message),
            None => Self::of_file(file, message),
        }
    }

    /// The line, counted from 1; 0 when the whole file is meant.
    pub fn line(&self) -> usize {
        self.line
    }
}

impl fmt::Display for TomlProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.message),
            line => write!(f, "{}:{line}: {}", self.file, self.message),
        }
    }
}

impl std::error::Error for TomlProblem {}

/// The word of `known` that `given` was most probably meant to be.
fn nearest<'a>(given: &str, known: &[&'a str]) -> Option<&'a str> {
    // One slip per three letters, so that a stranger is not mistaken for a friend.
    let allowed = (given.chars().count() / 3).clamp(1, 4);
    known
        .iter()
        .map(|word| (strsim::damerau_levenshtein(given, word), *word))
        .filter(|(slips, _)| *slips <= allowed)
        .min()
        .map(|(_, word)| word)
}

fn unknown_key_message(given: &str, known: &[&str]) -> String {
    if ["token", "secret", "password"].iter().any(|word| given.contains(word)) {
        return format!("unknown key `{given}`; a secret is never in this file: use run --join-token-file FILE");
    }
    match nearest(given, known) {
        Some(word) => format!("unknown key `{given}`; the nearest valid key is `{word}`"),
        None => format!("unknown key `{given}`; valid keys are {}", known.join(", ")),
    }
}

/// The given key and the valid ones, out of serde's words for an unknown field.
fn unknown_key(message: &str) -> Option<(&str, Vec<&str>)> {
    let rest = message.strip_prefix("unknown field `")?;
    // The list of valid names is serde's own and holds no backtick but its quotes; the given key may hold anything.
    let (given, expected) = rest.rsplit_once("`, expected ")?;
    Some((given, expected.split('`').skip(1).step_by(2).collect()))
}

/// `text` with every control character written out and its length bounded.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(QUOTED_CHARS_MAX));
    for (count, c) in text.chars().enumerate() {
        if count == QUOTED_CHARS_MAX {
            out.push_str("...");
            break;
        }
        // Bidirectional controls reorder what a reader sees; they are escaped as control characters are.
        if c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}
