//! What can go wrong, whose fault it is and what to do.

use std::{io, path::PathBuf};

/// An error of the ledger.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// The record may not be written as it is.
    #[error("record refused: {0}")]
    Record(String),
    /// Bytes that should be a record are none.
    #[error("not a record: {0}")]
    Decode(String),
    /// A name or key does not follow its format.
    #[error("{field} {problem}")]
    Format {
        /// What was read.
        field: &'static str,
        /// What is wrong and what is right.
        problem: String,
    },
    /// An operation on a file failed.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// The operation, as a verb.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A part of the ledger is not there. It is never made anew by opening.
    #[error("{path} is missing; the ledger is made once by `mintage-ca init`, so restore it from a backup ({detail})")]
    Missing {
        /// The file or folder.
        path: PathBuf,
        /// What it should hold.
        detail: &'static str,
    },
    /// There is something where a ledger should be made.
    #[error("{0} is not empty; a ledger is never made over what is there")]
    Exists(PathBuf),
    /// Another process has the ledger open.
    #[error("{0} is open in another process; stop that one first")]
    Locked(PathBuf),
    /// The folder is not safely ours.
    #[error("{path} {problem}")]
    Unsafe {
        /// The file or folder.
        path: PathBuf,
        /// Owner or mode, and the remedy.
        problem: String,
    },
    /// Acknowledged bytes are damaged.
    #[error("{path} is damaged at byte {offset} (record {index}): {problem}; restore it from a backup or a replica")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        offset: u64,
        /// The first record that cannot be trusted.
        index: u64,
        /// What is wrong there.
        problem: String,
    },
    /// A file that is made of the records is not as it was made. Nothing is lost with it.
    #[error(
        "{path} is damaged at byte {offset}: {problem}; remove the file, the next start makes it again from the records"
    )]
    Derived {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        offset: u64,
        /// The first record that it is about.
        index: u64,
        /// What is wrong there.
        problem: String,
    },
    /// A log's plain folder is not that of a whole log.
    #[error("{path}{}: {problem}", index.map(|index| format!(" (record {index})")).unwrap_or_default())]
    Tree {
        /// The file.
        path: PathBuf,
        /// The first record that it makes doubtful, where there is one.
        index: Option<u64>,
        /// What is wrong with it.
        problem: String,
    },
    /// The ledger is older than something that was seen of it.
    #[error(
        "the ledger in {ledger} holds {have} records, up to byte {end} of {file}, but {what} has seen {need}: it was \
         rolled back or cut there; put the newer one back, or make a data directory of a whole backup by `mintage-ca \
         restore`"
    )]
    RolledBack {
        /// The ledger's folder.
        ledger: PathBuf,
        /// The file with the last record, below that folder.
        file: PathBuf,
        /// Where in the file the next record was.
        end: u64,
        /// Who has seen more.
        what: &'static str,
        /// Records here.
        have: u64,
        /// Records seen there.
        need: u64,
    },
    /// The ledger holds other records than were signed.
    #[error("the ledger's root at size {size} is not the one of {what}; the log was forked or altered")]
    Forked {
        /// The tree size compared.
        size: u64,
        /// What holds the other root.
        what: &'static str,
    },
    /// A signature does not verify.
    #[error("signature refused: {0}")]
    Signature(String),
    /// A proof does not prove.
    #[error("proof refused: {0}")]
    Proof(&'static str),
    /// The stored checkpoint is not the expected one: another replica was faster.
    #[error("the stored checkpoint has size {current}, not {expected}")]
    CheckpointMoved {
        /// Size of the stored checkpoint.
        current: u64,
        /// Size the caller expected.
        expected: u64,
    },
    /// An index or size beyond what is there.
    #[error("{what} {asked} is beyond the {have} there are")]
    Beyond {
        /// What was asked for.
        what: &'static str,
        /// The index or size.
        asked: u64,
        /// What there is.
        have: u64,
    },
    /// The record was given up with its shard.
    #[error("record {index} was given up with its shard; the first record here is {first}")]
    Released {
        /// The record asked for.
        index: u64,
        /// The first that there is.
        first: u64,
    },
    /// There is no room; nothing was written.
    #[error("no space left for the ledger; free some and it goes on by itself")]
    NoSpace,
    /// A write or flush failed; what is on disk is unknown until the next start.
    #[error("the ledger is closed for writing after a failed write: {0}")]
    Poisoned(String),
    /// The other side has stopped.
    #[error("the ledger is shut down")]
    Closed,
}

impl LedgerError {
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }

    pub(crate) fn format(field: &'static str, problem: impl Into<String>) -> Self {
        Self::Format {
            field,
            problem: problem.into(),
        }
    }
}

impl From<mintage_identity::NameError> for LedgerError {
    fn from(error: mintage_identity::NameError) -> Self {
        Self::Decode(error.to_string())
    }
}
