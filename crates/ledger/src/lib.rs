//! The ledger: one append-only, Merkle-hashed log that is the truth of the certificate authority.
//!
//! Records go in through the [`Committer`], which groups them and appends them durably to a [`Journal`]; only then does
//! it hand out [`Receipt`]s. Everything else follows the journal: the tree with its tiles and checkpoints, the search
//! index, and the state of other crates. The format is C2SP tlog-tiles with signed-note checkpoints and RFC 6962
//! hashing, so that verifiers nobody here wrote can check it.

mod check;
mod checkpoint;
mod committer;
mod disk;
mod error;
mod facts;
mod fields;
mod file;
mod follow;
mod integrate;
mod journal;
mod kind;
mod layout;
mod leaf_der;
mod note;
mod open;
mod origin;
mod proof;
mod reader;
mod receipt;
mod record;
mod recovery;
#[cfg(test)]
mod samples;
mod search;
#[cfg(test)]
mod tests;
mod tiles;
mod tree;
mod verify;
mod wal;
mod writer;

pub mod limits;

/// The record's messages, generated from `proto/mintage/ledger/v1/record.proto` (`cargo xtask proto`).
#[allow(missing_docs, clippy::all, reason = "generated code")]
#[rustfmt::skip]
#[path = "gen.rs"]
pub mod wire;

pub use checkpoint::{Checkpoint, LogKey, SignedCheckpoint};
pub use committer::{CommitError, CommitStats, CommitTicket, Commits, Committer, CommitterLimits};
pub use disk::{Disk, DiskFile, LocalDisk};
pub use error::LedgerError;
pub use file::{FileJournal, OpenOptions, Recovered};
pub use follow::{Follower, Sink};
pub use integrate::{CHECKPOINT_EVERY, Integrator};
pub use journal::{AppendError, Journal, Stored};
pub use kind::Kind;
pub use leaf_der::LeafFacts;
pub use note::{NoteSignature, SignedNote, Vkey};
pub use origin::Origin;
pub use proof::{HashSource, consistency, inclusion, root_at, verify_consistency, verify_inclusion};
pub use receipt::Receipt;
pub use record::{Actor, Attestation, Body, EncodedRecord, RECORD_VERSION, Record};
pub use search::{Cursor, Hit, Issued, LiveCertificate, LiveQuery, Page, Query, Search};
pub use tiles::{TILE_WIDTH, Tree, tile_path};
pub use tree::{Frontier, Hash, empty_root, leaf_hash, node_hash};
pub use verify::{RecordCheck, ShardReport, verify};
