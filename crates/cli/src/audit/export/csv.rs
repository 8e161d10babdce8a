//! A table as RFC 4180 has it: one header line, CRLF after each line, quotes around what needs them.
//!
//! The columns are fixed; new ones come at the end. Control characters are written out, so that every record has one
//! line. A cell that a spreadsheet would take for a formula (it begins with `=`, `+`, `-` or `@`, or their wide forms) gets
//! an apostrophe in front; who reads the file by program takes one leading apostrophe off such a cell.

use super::Encoder;
use crate::{
    audit::facts::{Cause, Placed, code_and_reason},
    failure::Failure,
    text::{printable, rfc3339},
};

/// The header.
pub(super) const COLUMNS: [&str; 20] = [
    "index",
    "time",
    "kind",
    "actor",
    "actor_id",
    "actor_name",
    "agent",
    "instance",
    "spiffe_id",
    "entry",
    "serial",
    "not_before",
    "not_after",
    "public_key_sha256",
    "code",
    "reason",
    "request_id",
    "replica",
    "leaf_hash",
    "text",
];

/// How cells begin that spreadsheets compute.
const FORMULAS: [char; 8] = ['=', '+', '-', '@', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}'];

/// The format.
pub(super) struct Csv;

/// The cells of a record, as they are.
pub(super) fn cells(placed: &Placed) -> [String; COLUMNS.len()] {
    let (facts, record) = (placed.facts(), &placed.record);
    let cause = Cause::of(&record.actor);
    let (code, reason) = code_and_reason(&record.body);
    let time = |millis: Option<i64>| millis.and_then(rfc3339).unwrap_or_default();
    let leaf = facts.leaf.as_ref();
    [
        placed.index.to_string(),
        time(Some(record.time.millis())),
        placed.kind().name().to_owned(),
        cause.what.to_owned(),
        cause.id,
        cause.name,
        facts.agent.clone(),
        if facts.agent.is_empty() {
            String::new()
        } else {
            facts.instance.to_string()
        },
        facts.spiffe_id.clone(),
        facts.entry.clone(),
        facts.serial(),
        time(leaf.map(|leaf| leaf.not_before().millis())),
        time(leaf.map(|leaf| leaf.not_after().millis())),
        leaf.map(|leaf| leaf.spki_sha256().to_string()).unwrap_or_default(),
        code,
        reason,
        record.request_id.map(|id| id.to_string()).unwrap_or_default(),
        record.replica.clone(),
        hex::encode(placed.leaf_hash.as_bytes()),
        mintage_ca::line::what(record),
    ]
}

fn cell(text: &str) -> String {
    let mut shown = printable(text);
    if shown.trim_start().starts_with(FORMULAS) {
        shown.insert(0, '\'');
    }
    match shown.contains([',', '"', '\'']) || shown.starts_with(' ') {
        true => format!("\"{}\"", shown.replace('"', "\"\"")),
        false => shown,
    }
}

fn push_row<'a>(cells: impl Iterator<Item = &'a str>, out: &mut Vec<u8>) {
    let row: Vec<String> = cells.map(cell).collect();
    out.extend_from_slice(row.join(",").as_bytes());
    out.extend_from_slice(b"\r\n");
}

impl Encoder for Csv {
    fn head(&mut self, out: &mut Vec<u8>) -> Result<(), Failure> {
        push_row(COLUMNS.into_iter(), out);
        Ok(())
    }

    fn record(&mut self, placed: &Placed, out: &mut Vec<u8>) -> Result<(), Failure> {
        push_row(cells(placed).iter().map(String::as_str), out);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_where_rfc_4180_wants_it_and_never_computed() {
        for (text, shown) in [
            ("plain", "plain"),
            ("", ""),
            ("a,b", "\"a,b\""),
            ("say \"x\"", "\"say \"\"x\"\"\""),
            ("two\r\nlines", "two\\r\\nlines"),
            ("=1+1", "\"'=1+1\""),
            ("+4", "\"'+4\""),
            ("-4", "\"'-4\""),
            ("@SUM(A1)", "\"'@SUM(A1)\""),
            ("  =1", "\"'  =1\""),
            ("\u{ff1d}1", "\"'\u{ff1d}1\""),
            ("\t=1", "\\t=1"),
            ("a=1", "a=1"),
            ("\u{1b}[2J", "\\u{1b}[2J"),
        ] {
            assert_eq!(cell(text), shown, "{text:?}");
        }
    }
}
