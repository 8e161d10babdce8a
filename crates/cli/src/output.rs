//! What is printed: tables for people, JSON for programs. Data goes to standard output, notices to standard error; every
//! JSON object carries `schema_version`.

use std::io;

use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::{
    failure::Failure,
    text::{printable, printable_json, printable_lines},
};

/// Version of every JSON form; raised when a field changes its meaning or goes away.
pub(crate) const SCHEMA_VERSION: u32 = 1;

/// How data is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Tables and lines for people.
    Table,
    /// One JSON document.
    Json,
    /// One JSON object a line.
    Jsonl,
    /// Certificates as PEM (`bundle show`).
    #[value(hide = true)]
    Pem,
    /// A SPIFFE trust bundle document (`bundle show`).
    #[value(hide = true)]
    Jwks,
}

/// One line of a listing.
pub(crate) trait Row: Serialize {
    /// Names of the columns.
    const HEADER: &'static [&'static str];
    /// The row's cells, as many as there are columns.
    fn cells(&self) -> Vec<String>;
}

/// The chosen format.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    format: Format,
}

#[derive(Serialize)]
struct Versioned<'a, T> {
    schema_version: u32,
    #[serde(flatten)]
    value: &'a T,
}

struct Listing<'a, R> {
    name: &'static str,
    rows: &'a [R],
    next: Option<&'a str>,
}

impl<R: Serialize> Serialize for Listing<'_, R> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("schema_version", &SCHEMA_VERSION)?;
        map.serialize_entry(self.name, self.rows)?;
        map.serialize_entry("next", &self.next)?;
        map.end()
    }
}

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }

    /// The format asked for.
    pub(crate) fn format(self) -> Format {
        self.format
    }

    /// True when people read it.
    pub(crate) fn is_table(self) -> bool {
        self.format == Format::Table
    }

    /// Refuses the formats that one verb alone knows.
    ///
    /// # Errors
    /// Names that verb.
    pub(crate) fn general(self) -> Result<Self, Failure> {
        match self.format {
            Format::Pem | Format::Jwks => Err(Failure::local(
                "only `mintage bundle show` prints pem and jwks; use -o table, json or jsonl",
            )),
            _ => Ok(self),
        }
    }

    /// Prints a listing. `name` is the field of its rows in JSON; `next` is where the next page begins.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(crate) fn list<R: Row>(self, name: &'static str, rows: &[R], next: Option<&str>) -> Result<(), Failure> {
        let text = match self.format {
            Format::Json => json(&Listing { name, rows, next })?,
            Format::Jsonl => self.lines(rows)?,
            _ => table(R::HEADER, rows.iter().map(Row::cells)),
        };
        write(&text)?;
        if let Some(next) = next {
            notice(&format!("there is more: --page {next}"));
        }
        Ok(())
    }

    /// Rows as JSON, one object a line.
    ///
    /// # Errors
    /// When a row cannot be written as JSON.
    pub(crate) fn lines<R: Serialize>(self, rows: &[R]) -> Result<String, Failure> {
        let lines = rows.iter().map(|row| {
            line(&Versioned {
                schema_version: SCHEMA_VERSION,
                value: row,
            })
        });
        lines.collect()
    }

    /// Prints one object; `text` makes its form for people.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(crate) fn object<T: Serialize>(self, value: &T, text: impl FnOnce() -> String) -> Result<(), Failure> {
        let versioned = Versioned {
            schema_version: SCHEMA_VERSION,
            value,
        };
        write(&match self.format {
            Format::Json => json(&versioned)?,
            Format::Jsonl => line(&versioned)?,
            _ => printable_lines(&text()),
        })
    }
}

fn json(value: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value).map_err(Failure::local)?;
    Ok(printable_json(&text) + "\n")
}

fn line(value: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string(value).map_err(Failure::local)?;
    Ok(printable_json(&text) + "\n")
}

/// A table without lines, as other tools can cut it.
pub(crate) fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.to_vec());
    for cells in rows {
        let shown = cells.iter().map(|cell| match cell.as_str() {
            "" => "-".to_owned(),
            text => printable(text),
        });
        table.add_row(shown.collect::<Vec<_>>());
    }
    let columns = table.column_count();
    for column in 0..columns {
        if let Some(column) = table.column_mut(column) {
            column.set_padding((0, 2));
        }
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Aligned lines of names and values; empty values are left out.
pub(crate) fn fields(fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let shown = fields.iter().filter(|(_, value)| !value.is_empty());
    shown
        .map(|(name, value)| format!("{name:width$}  {}\n", printable(value)))
        .collect()
}

/// Writes data to standard output. A reader that went away is no failure.
///
/// # Errors
/// When standard output cannot be written.
pub(crate) fn write(text: &str) -> Result<(), Failure> {
    match sink::data(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| Failure::local(format!("standard output cannot be written: {error}"))),
    }
}

/// Tells something that is no data, on standard error.
pub(crate) fn notice(text: &str) {
    sink::notice(&format!("{}\n", printable(text)));
}

#[cfg(not(test))]
pub(crate) mod sink {
    use std::io::{self, Write};

    pub(crate) fn data(octets: &[u8]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(octets).and_then(|()| out.flush())
    }

    pub(super) fn notice(line: &str) {
        // Nobody may be there to read it.
        let _ = io::stderr().write_all(line.as_bytes());
    }
}

/// In tests both go to the thread that printed, who can take them.
#[cfg(test)]
pub(crate) mod sink {
    use std::{cell::RefCell, io};

    thread_local! {
        static PRINTED: RefCell<(String, String)> = RefCell::default();
    }

    pub(crate) fn data(octets: &[u8]) -> io::Result<()> {
        PRINTED.with_borrow_mut(|printed| printed.0.push_str(&String::from_utf8_lossy(octets)));
        Ok(())
    }

    pub(super) fn notice(line: &str) {
        PRINTED.with_borrow_mut(|printed| printed.1.push_str(line));
    }

    /// Data and notices of this thread since the last call.
    pub(crate) fn take() -> (String, String) {
        PRINTED.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Thing {
        name: &'static str,
        size: u32,
    }

    impl Row for Thing {
        const HEADER: &'static [&'static str] = &["NAME", "SIZE"];
        fn cells(&self) -> Vec<String> {
            vec![self.name.to_owned(), self.size.to_string()]
        }
    }

    const THINGS: [Thing; 2] = [
        Thing {
            name: "a\u{1b}",
            size: 1,
        },
        Thing { name: "", size: 22 },
    ];

    #[test]
    fn tables_are_plain_and_escaped() {
        let text = table(Thing::HEADER, THINGS.iter().map(Row::cells));
        assert_eq!(text, "NAME     SIZE\na\\u{1b}  1\n-        22\n");
    }

    #[test]
    fn every_json_object_carries_the_schema_version() {
        let listing = json(&Listing {
            name: "things",
            rows: &THINGS,
            next: None,
        })
        .unwrap();
        let value: serde_json::Value = serde_json::from_str(&listing).unwrap();
        assert_eq!(
            (value["schema_version"].as_u64(), value["things"][1]["size"].as_u64()),
            (Some(1), Some(22))
        );
        assert!(value["next"].is_null());
        let one = line(&Versioned {
            schema_version: SCHEMA_VERSION,
            value: &THINGS[1],
        })
        .unwrap();
        assert_eq!(one, "{\"schema_version\":1,\"name\":\"\",\"size\":22}\n");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&one).unwrap()["schema_version"],
            1
        );
    }

    #[test]
    fn fields_are_aligned_and_empty_ones_left_out() {
        let text = fields(&[
            ("name", "web".into()),
            ("owner", String::new()),
            ("spiffe id", "x\ny".into()),
        ]);
        assert_eq!(text, "name       web\nspiffe id  x\\ny\n");
    }

    #[test]
    fn formats_of_one_verb_are_refused_elsewhere() {
        assert!(Output::new(Format::Pem).general().is_err());
        assert!(Output::new(Format::Jsonl).general().is_ok());
    }
}
