//! One JSON object a line: everything that `audit show` tells of a record itself. What became of it later (state, and the
//! revocations that strike it) is no part of the record, and so no part of an export.

use serde::Serialize;

use super::Encoder;
use crate::{
    audit::{describe, facts::Placed, show::Certificate},
    failure::Failure,
    output::SCHEMA_VERSION,
    text::{printable_json, rfc3339},
};

#[derive(Serialize)]
struct Line {
    schema_version: u32,
    index: u64,
    time: Option<String>,
    kind: &'static str,
    leaf_hash: String,
    cause: describe::Fields,
    body: describe::Fields,
    certificate: Option<Certificate>,
}

/// The format.
pub(super) struct Jsonl;

impl Encoder for Jsonl {
    fn record(&mut self, placed: &Placed, out: &mut Vec<u8>) -> Result<(), Failure> {
        let line = Line {
            schema_version: SCHEMA_VERSION,
            index: placed.index,
            time: rfc3339(placed.time().millis()),
            kind: placed.kind().name(),
            leaf_hash: hex::encode(placed.leaf_hash.as_bytes()),
            cause: describe::cause(&placed.record),
            body: describe::body(&placed.record.body),
            certificate: Certificate::of(&placed.record)?,
        };
        push_line(&line, out)
    }
}

/// One value as a line of its own.
pub(super) fn push_line(value: &impl Serialize, out: &mut Vec<u8>) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(Failure::local)?;
    out.extend_from_slice(printable_json(&text).as_bytes());
    out.push(b'\n');
    Ok(())
}
