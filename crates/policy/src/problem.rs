//! What is wrong in a TOML file, told so that it can be put right: file, line, and the nearest valid key.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Longest text of the file that a message repeats: a message is a line, not a dump.
const QUOTED_CHARS_MAX: usize = 300;

/// One problem of one TOML file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TomlProblem {
    /// The file as it was named by the caller.
    pub file: PathBuf,
    /// The line, counted from 1; 0 when the whole file is meant.
    pub line: usize,
    /// What is wrong and what to do, without control characters.
    pub message: String,
}

impl TomlProblem {
    /// A problem of the whole file (it cannot be read, it is too large).
    pub fn of_file(file: &Path, message: impl fmt::Display) -> Self {
        Self {
            file: file.to_path_buf(),
            line: 0,
            message: printable(&message.to_string()),
        }
    }

    /// A problem at a byte range of `text`, the content of `file`.
    pub fn at(file: &Path, text: &str, span: &Range<usize>, message: impl fmt::Display) -> Self {
        Self {
            file: file.to_path_buf(),
            line: line_of(text, span.start),
            message: printable(&message.to_string()),
        }
    }

    /// A problem found by `toml` while it read `text`: unknown keys name the nearest valid one.
    pub fn from_toml(file: &Path, text: &str, error: &toml::de::Error) -> Self {
        let message = match unknown_key(error.message()) {
            Some((given, known)) => unknown_key_message(given, &known),
            None => error.message().replace('\n', "; "),
        };
        match error.span() {
            Some(span) => Self::at(file, text, &span, message),
            None => Self::of_file(file, message),
        }
    }
}

impl fmt::Display for TomlProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A file name is somebody's text too: it must not reach a terminal raw.
        let file = printable(&self.file.to_string_lossy());
        match self.line {
            0 => write!(f, "{file}: {}", self.message),
            line => write!(f, "{file}:{line}: {}", self.message),
        }
    }
}

impl std::error::Error for TomlProblem {}

/// The word of `known` that `given` was most probably meant to be; none when nothing is near.
pub fn nearest<'a>(given: &str, known: &[&'a str]) -> Option<&'a str> {
    // One slip per three letters, and never a word that shares less than half of what was written.
    let allowed = (given.chars().count() / 3).clamp(1, 4);
    let by_slips = known
        .iter()
        .map(|word| (strsim::damerau_levenshtein(given, word), *word))
        .filter(|(slips, _)| *slips <= allowed)
        .min();
    let by_shape = || {
        known
            .iter()
            .map(|word| (strsim::jaro_winkler(given, word), *word))
            .filter(|(likeness, _)| *likeness >= 0.85)
            .max_by(|(a, _), (b, _)| a.total_cmp(b))
    };
    by_slips
        .map(|(_, word)| word)
        .or_else(|| by_shape().map(|(_, word)| word))
}

/// The sentence for a key that does not exist.
pub(crate) fn unknown_key_message(given: &str, known: &[&str]) -> String {
    match nearest(given, known) {
        Some(word) => format!("unknown key `{given}`; the nearest valid key is `{word}`"),
        None if known.is_empty() => format!("unknown key `{given}`; no key is allowed here"),
        None => format!("unknown key `{given}`; valid keys are {}", known.join(", ")),
    }
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

/// The given key and the valid ones, out of serde's words for an unknown field.
fn unknown_key(message: &str) -> Option<(&str, Vec<&str>)> {
    let rest = message.strip_prefix("unknown field `")?;
    // The list of valid names is serde's own and holds no backtick but its quotes; the given key may hold anything.
    let (given, expected) = match rest.rsplit_once("`, expected ") {
        Some((given, list)) => (given, list),
        None => (rest.split_once("`, there are no fields")?.0, ""),
    };
    Some((given, expected.split('`').skip(1).step_by(2).collect()))
}

/// The line, counted from 1, that holds the byte at `offset`.
fn line_of(text: &str, offset: usize) -> usize {
    let end = offset.min(text.len());
    text.as_bytes()[..end].iter().filter(|byte| **byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        #[expect(dead_code, reason = "only its name matters")]
        listen: Option<String>,
        #[expect(dead_code, reason = "only its name matters")]
        trust_domain: Option<String>,
    }

    fn problem(text: &str) -> String {
        let error = toml::from_str::<Sample>(text).unwrap_err();
        TomlProblem::from_toml(Path::new("ca.toml"), text, &error).to_string()
    }

    #[test]
    fn unknown_key_is_told_with_line_and_nearest_key() {
        assert_eq!(
            problem("listen = \"a\"\n\ntrust_domian = \"x\"\n"),
            "ca.toml:3: unknown key `trust_domian`; the nearest valid key is `trust_domain`"
        );
        assert_eq!(
            problem("zzz = 1"),
            "ca.toml:1: unknown key `zzz`; valid keys are listen, trust_domain"
        );
    }

    #[test]
    fn wrong_type_and_duplicate_key_are_told_with_their_line() {
        assert!(
            problem("listen = 5").starts_with("ca.toml:1: invalid type"),
            "{}",
            problem("listen = 5")
        );
        let twice = problem("listen = \"a\"\nlisten = \"b\"\n");
        assert!(twice.starts_with("ca.toml:2: duplicate key"), "{twice}");
    }

    #[test]
    fn control_characters_and_length_never_reach_a_message_raw() {
        let text = format!("\"a\\u001b[31m`, expected `\\n{}\" = 1", "x".repeat(5_000));
        let said = problem(&text);
        assert!(!said.chars().any(char::is_control), "{said:?}");
        assert!(said.chars().count() < 400, "{}", said.len());
    }

    #[test]
    fn nearest_finds_slips_and_leaves_strangers_alone() {
        let known = ["name", "spiffe_id", "agents", "selectors", "ttl"];
        assert_eq!(nearest("selector", &known), Some("selectors"));
        assert_eq!(nearest("spiffeid", &known), Some("spiffe_id"));
        assert_eq!(nearest("tll", &known), Some("ttl"));
        assert_eq!(nearest("password", &known), None);
    }
}
