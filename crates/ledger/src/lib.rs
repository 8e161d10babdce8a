//! The ledger: one append-only, Merkle-hashed log that is the truth of the certificate authority.
//!
//! Records go in through the [`Committer`], which groups them and appends them durably to a [`Journal`]; only then does
//! it hand out [`Receipt`]s. Everything else follows the journal: the tree with its tiles and checkpoints, the search
//! index, and the state of other crates. The format is C2SP tlog-tiles with signed-note checkpoints and RFC 6962
//! hashing, so that verifiers nobody here wrote can check it.

mod check;
mod checkpoint;
mod committer;
mod error;
mod facts;
mod fields;
mod journal;
mod kind;
mod leaf_der;
mod note;
mod origin;
mod proof;
mod receipt;
mod record;
#[cfg(test)]
mod samples;
mod tree;

pub mod limits;

/// The record's messages, generated from `proto/mintage/ledger/v1/record.proto` (`cargo xtask proto`).
#[allow(missing_docs, clippy::all, reason = "generated code")]
#[rustfmt::skip]
#[path = "gen.rs"]
pub mod wire;

pub use checkpoint::{Checkpoint, LogKey, SignedCheckpoint};
pub use committer::{CommitError, CommitStats, CommitTicket, Commits, Committer, CommitterLimits};
pub use error::LedgerError;
pub use journal::{AppendError, Journal, Stored};
pub use kind::Kind;
pub use leaf_der::LeafFacts;
pub use note::{NoteSignature, SignedNote, Vkey};
pub use origin::Origin;
pub use proof::{HashSource, consistency, inclusion, root_at, verify_consistency, verify_inclusion};
pub use receipt::Receipt;
pub use record::{Actor, Attestation, Body, EncodedRecord, RECORD_VERSION, Record};
pub use tree::{Frontier, Hash, empty_root, leaf_hash, node_hash};
