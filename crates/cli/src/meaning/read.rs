//! What can be told of a record without the records before it: its fields, and the certificate in it.

use mintage_ledger::{Body, Record, Stored};
use mintage_svid::LeafInfo;

/// A record that was read, or why it could not be.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) index: u64,
    pub(super) found: Result<Found, String>,
}

/// The fields of a record.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) record: Record,
    /// The certificate of an issue record; an error is one of that record.
    pub(super) leaf: Option<Result<LeafInfo, String>>,
}

impl Read {
    /// Reads the whole record.
    pub(super) fn of(stored: &Stored) -> Self {
        Self {
            index: stored.index(),
            found: stored.decode().map(Found::of).map_err(|error| error.to_string()),
        }
    }
}

impl Found {
    fn of(record: Record) -> Self {
        let leaf = match &record.body {
            Body::Issue(issue) => Some(
                LeafInfo::parse(&issue.certificate_der)
                    .map_err(|error| format!("its certificate is no X.509-SVID: {error}")),
            ),
            _ => None,
        };
        Self { record, leaf }
    }
}
