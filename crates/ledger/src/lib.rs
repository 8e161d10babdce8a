//! The append-only Merkle log: records, tree, checkpoints, proofs, search, committer, recovery.

/// The record's messages, generated from `proto/mintage/ledger/v1/record.proto` (`cargo xtask proto`).
#[allow(missing_docs, clippy::all, reason = "generated code")]
#[rustfmt::skip]
#[path = "gen.rs"]
pub mod wire;
