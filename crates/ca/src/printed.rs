//! What `mintage-ca` prints: data on standard output, for people or as JSON with a `schema_version`; notices on standard
//! error.

use std::io::{self, Write};

use clap::ValueEnum;
use mintage_ca::logging::{printable, printable_json};
use serde::Serialize;

/// Version of every JSON form; raised when a field changes its meaning or goes away.
const SCHEMA_VERSION: u32 = 1;

/// How data is printed.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Lines for people.
    Table,
    /// One JSON document.
    Json,
    /// One JSON object on one line.
    Jsonl,
}

#[derive(Serialize)]
struct Versioned<'a, T> {
    schema_version: u32,
    #[serde(flatten)]
    value: &'a T,
}

/// Prints one object; `lines` are its form for people.
///
/// # Errors
/// When standard output cannot be written.
pub(crate) fn object<T: Serialize>(format: Format, value: &T, lines: &[(&str, String)]) -> io::Result<()> {
    let versioned = Versioned {
        schema_version: SCHEMA_VERSION,
        value,
    };
    write(&match format {
        Format::Table => table(lines),
        Format::Json => printable_json(&serde_json::to_string_pretty(&versioned)?) + "\n",
        Format::Jsonl => printable_json(&serde_json::to_string(&versioned)?) + "\n",
    })
}

/// Aligned names and values; a value without a name stands alone.
fn table(lines: &[(&str, String)]) -> String {
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let shown = lines.iter().map(|(name, value)| match name.is_empty() {
        true => printable(value) + "\n",
        false => format!("{name:width$}  {}\n", printable(value)),
    });
    shown.collect()
}

/// Writes to standard output. A reader that went away is no failure.
///
/// # Errors
/// When standard output cannot be written.
pub(crate) fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Tells something that is no data.
pub(crate) fn notice(text: &str) {
    // Nobody may be there to read it.
    let _ = writeln!(io::stderr(), "{}", printable(text));
}

/// An argument as a shell takes it back.
pub(crate) fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:=@%,".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_a_shell_would_take_apart_are_quoted() {
        assert_eq!(shell_word("/var/lib/mintage-ca"), "/var/lib/mintage-ca");
        assert_eq!(shell_word("/a b/it's; $x"), r"'/a b/it'\''s; $x'");
        assert_eq!(shell_word(""), "''");
    }
}
