//! Files of a log's folder, of which nothing is believed: how they are read, and how a bundle falls into records.

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use super::LENGTH_OCTETS;
use crate::LedgerError;

/// The records of a bundle (C2SP tlog-tiles, log entries).
pub(crate) fn split<'a>(path: &Path, bytes: &'a [u8], first: u64, width: usize) -> Result<Vec<&'a [u8]>, LedgerError> {
    let (mut records, mut rest) = (Vec::with_capacity(width), bytes);
    while records.len() < width {
        let next = rest.split_first_chunk::<LENGTH_OCTETS>();
        let record = next.and_then(|(length, rest)| rest.split_at_checked(usize::from(u16::from_be_bytes(*length))));
        let Some((record, left)) = record else {
            let index = first + records.len() as u64;
            return Err(refused(path, Some(index), "ends within this record"));
        };
        records.push(record);
        rest = left;
    }
    match rest.is_empty() {
        true => Ok(records),
        false => {
            let problem = format!("goes on for {} bytes after its last record", rest.len());
            Err(refused(path, Some(first + width as u64 - 1), problem))
        }
    }
}

pub(super) fn refused(path: &Path, index: Option<u64>, problem: impl Into<String>) -> LedgerError {
    LedgerError::Tree {
        path: path.to_owned(),
        index,
        problem: problem.into(),
    }
}

/// A file of at most `max` bytes, no link; `index` is the first record that it is about.
pub(super) fn read_file(path: &Path, max: usize, index: Option<u64>) -> Result<Vec<u8>, LedgerError> {
    let opened = fs::OpenOptions::new()
        .read(true)
        .custom_flags(
            (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK)
                .bits()
                .cast_signed(),
        )
        .open(path);
    let file = opened.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => refused(path, index, "is missing"),
        _ => LedgerError::io("read", path)(error),
    })?;
    let mut bytes = Vec::new();
    let read = file.take(max as u64 + 1).read_to_end(&mut bytes);
    read.map_err(LedgerError::io("read", path))?;
    match bytes.len() > max {
        true => Err(refused(path, index, format!("has more than {max} bytes"))),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn arbitrary_bundles_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), width in 1usize..=256) {
            let path = Path::new("bundle");
            if let Ok(records) = split(path, &bytes, 7, width) {
                prop_assert_eq!(records.len(), width);
                let octets: usize = records.iter().map(|record| LENGTH_OCTETS + record.len()).sum();
                prop_assert_eq!(octets, bytes.len());
            }
        }

        #[test]
        fn short_records_read_back(lengths in proptest::collection::vec(0usize..5, 1..=256)) {
            let mut bytes = Vec::new();
            for length in &lengths {
                bytes.extend_from_slice(&(*length as u16).to_be_bytes());
                bytes.resize(bytes.len() + length, 7);
            }
            let records = split(Path::new("bundle"), &bytes, 0, lengths.len()).unwrap();
            prop_assert_eq!(records.iter().map(|record| record.len()).collect::<Vec<_>>(), lengths);
        }
    }
}
