//! What can go wrong with the state's store, whose fault it is and what to do.

use std::io;
use std::path::PathBuf;

use mintage_ledger::LedgerError;

/// Why the state cannot be opened, or stopped following.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The state has applied records that the ledger does not hold.
    #[error(
        "{dir} has applied {applied} records but the ledger holds {ledger}: the ledger was lost or rolled back. Put \
         the newer ledger back; nothing is served from an older one, because it would forget revocations. Where the newer \
         one is lost, make a data directory of a whole backup by `mintage-ca restore`"
    )]
    Ahead {
        /// The state's folder.
        dir: PathBuf,
        /// Records applied.
        applied: u64,
        /// Records of the ledger.
        ledger: u64,
    },
    /// The state was built from another ledger than the one that is there.
    #[error(
        "{dir} was built from another ledger (record {index} differs): the ledger was replaced or put back from a \
         backup. Put the ledger back that this state knows; where that is lost, make a data directory of a whole backup by \
         `mintage-ca restore`"
    )]
    OtherLedger {
        /// The state's folder.
        dir: PathBuf,
        /// The record compared.
        index: u64,
    },
    /// The state was built for another trust domain.
    #[error("{dir} is the state of trust domain {found}, not of {expected}; use the right folder")]
    OtherDomain {
        /// The state's folder.
        dir: PathBuf,
        /// The trust domain found.
        found: String,
        /// The trust domain asked for.
        expected: String,
    },
    /// The store was written by a newer version of this program.
    #[error("{dir} has version {found}, this program knows {known}; run the newer program, or remove {dir} to rebuild")]
    Newer {
        /// The state's folder.
        dir: PathBuf,
        /// Version found.
        found: u64,
        /// Newest version known.
        known: u64,
    },
    /// Another process has the state open.
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
    /// An operation on a file failed.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// The operation, as a verb.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The store refused an operation.
    #[error("the store {path} failed to {what}: {problem}; it is a view and is rebuilt at the next start")]
    Store {
        /// The operation, as a verb.
        what: &'static str,
        /// The store.
        path: PathBuf,
        /// What sled said.
        problem: String,
    },
    /// What the ledger keeps in place of older records is no state.
    #[error("the snapshot is not used: {0}; restore the shard's folder from a backup or a replica")]
    Snapshot(String),
    /// No snapshot could be made in time, or the store has failed.
    #[error("no snapshot of the state was made: {0}; see the log, and try again")]
    NoSnapshot(String),
    /// The ledger could not be read.
    #[error("the ledger cannot be read: {0}")]
    Ledger(#[from] LedgerError),
    /// A record came out of order.
    #[error("record {found} was handed to a state that expects record {expected}")]
    OutOfOrder {
        /// The index expected.
        expected: u64,
        /// The index that came.
        found: u64,
    },
    /// A record that must not be passed over cannot be read.
    #[error("record {index} cannot be applied: {problem}; it was written by a newer or a faulty program")]
    Record {
        /// Its index.
        index: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// Following the ledger has ended, by a stop or by the failure told in the log.
    #[error("the state follows the ledger no longer; see the log for the reason and restart")]
    Stopped,
}

impl StateError {
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }

    pub(crate) fn store(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(sled::Error) -> Self {
        let path = path.into();
        move |error| Self::Store {
            what,
            path,
            problem: error.to_string(),
        }
    }
}
