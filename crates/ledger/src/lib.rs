//! The ledger: one append-only, Merkle-hashed log that is the truth of the certificate authority.
//!
//! Records go in through the [`Committer`], which groups them and appends them durably to a [`Journal`]; only then does
//! it hand out [`Receipt`]s. Everything else follows the journal: the tree with its tiles and checkpoints, the search
//! index, and the state of other crates. The format is C2SP tlog-tiles with signed-note checkpoints and RFC 6962
//! hashing, so that verifiers nobody here wrote can check it.
//!
//! ```
//! use std::{sync::Arc, time::Duration};
//!
//! use mintage_identity::{SpiffeId, TrustDomain, UnixTime};
//! use mintage_ledger::{
//!     Actor, Body, Committer, CommitterLimits, FileJournal, Follower, Integrator, Journal, LogKey, LogKeys, OpenOptions,
//!     Origin, Record, SignedCheckpoint, Trees, verify, verify_inclusion, wire,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let ledger = dir.path().join("ledger");
//! let now = UnixTime::from_seconds(1_764_547_200);
//! let domain = TrustDomain::parse("dev.test")?;
//! let record = |body| Record {
//!     time: now,
//!     salt: [7; 16], // random in earnest
//!     actor: Actor::Replica { id: SpiffeId::parse("spiffe://dev.test/mintage/ca/ca-1").unwrap() },
//!     attestation: None,
//!     request_id: None,
//!     replica: "ca-1".into(),
//!     control_seen: 0,
//!     body,
//! };
//!
//! // Once: make the ledger.
//! let (key, _pkcs8) = LogKey::generate(&zeroize::Zeroizing::new([1; 32]))?; // random in earnest
//! let origin = Origin::new(&domain, "a1b2", now)?;
//! let vkey = key.vkey(&origin);
//! let open = wire::LogOpen { origin: origin.to_string(), vkey: vkey.to_string(), ..Default::default() };
//! let opening = record(Body::LogOpen(open)).encode()?;
//! drop(FileJournal::create(&ledger, &origin, &key, opening, OpenOptions::default())?);
//!
//! // At each start: recover it, follow it, commit to it.
//! let journal = Arc::new(FileJournal::open(&ledger, OpenOptions::default())?);
//! let shared: Arc<dyn Journal> = journal.clone();
//! let trees = Trees::new(journal.ledger(), shared.clone(), journal.disk().clone());
//! let keys = LogKeys::new(&origin, key);
//! let integrator = Integrator::new(shared.clone(), trees.clone(), Some(keys), Duration::from_secs(1))?;
//! let follower = Follower::start("tree", shared.clone(), vec![Box::new(integrator)], Duration::ZERO)?;
//! let (committer, commits) = Committer::start(shared, CommitterLimits::default())?;
//! let event = wire::AdminEvent { action: "login".into(), detail: String::new() };
//! let encoded = record(Body::AdminEvent(event)).encode()?;
//! let control_seen = journal.control_head();
//! let receipt = commits.submit(vec![(encoded, control_seen)]).wait().remove(0)?;
//!
//! // At a clean stop: no more records, then the last checkpoint.
//! committer.stop();
//! follower.stop();
//!
//! // Anyone, with nothing but the checkpoint, the path and the key:
//! let signed = SignedCheckpoint::verify(journal.checkpoint()?.to_string().as_bytes(), &vkey)?;
//! let (size, root) = (signed.checkpoint().size, signed.checkpoint().root);
//! let (_, tree) = trees.growing();
//! let path = tree.inclusion(receipt.leaf_index(), &receipt.leaf_hash(), size, &root)?;
//! verify_inclusion(&receipt.leaf_hash(), receipt.leaf_index(), size, &path, &root)?;
//!
//! // Offline, the whole folder.
//! let report = verify(&ledger, Some(&[vkey]), &mut ())?;
//! assert_eq!(report[0].size, 2);
//! # Ok(())
//! # }
//! ```

mod about;
mod archive;
mod batch;
mod check;
mod checkpoint;
mod closed;
mod committer;
mod cosignature;
mod disk;
mod error;
mod facts;
mod fields;
mod file;
mod follow;
mod foreign;
mod hold;
mod integrate;
mod issue;
mod journal;
mod kept;
mod kind;
mod layout;
mod leaf_der;
mod log_keys;
mod note;
mod on_disk;
mod open;
mod opening;
mod origin;
mod policy;
mod proof;
mod reader;
mod receipt;
mod record;
mod recovery;
mod retain;
mod roll;
#[cfg(test)]
mod samples;
mod search;
mod seg;
mod succession;
#[cfg(test)]
mod tests;
mod tile_dir;
mod tiles;
mod tlog_proof;
mod tree;
mod trees;
mod verify;
mod verify_index;
mod wal;
mod witness;
mod writer;

#[doc(hidden)]
pub mod fuzzing;
pub mod limits;

/// The record's messages, generated from `proto/mintage/ledger/v1/record.proto` (`cargo xtask proto`).
#[allow(missing_docs, clippy::all, reason = "generated code")]
#[rustfmt::skip]
#[path = "gen.rs"]
pub mod wire;

pub use about::{RevocationScope, is_about_identity, is_about_prefix};
pub use archive::{Archive, ArchiveFile};
pub use batch::Batch;
pub use checkpoint::{Checkpoint, LogKey, SignedCheckpoint};
pub use committer::{CommitError, CommitStats, CommitTicket, Commits, Committer, CommitterLimits, MoreToCome};
pub use cosignature::{Cosigner, CosignerKey};
pub use disk::{Disk, DiskFile, Fill, LocalDisk};
pub use error::LedgerError;
pub use file::{FileJournal, OpenOptions, Recovered};
pub use follow::{Follower, Sink};
pub use foreign::ForeignCheckpoint;
pub use hold::{Held, Hold};
pub use integrate::{CHECKPOINT_EVERY, Integrator};
pub use issue::IssueRecord;
pub use journal::{AppendError, Journal, Log, Stored};
pub use kind::Kind;
pub use layout::{current_log, signed_records};
pub use leaf_der::LeafFacts;
pub use log_keys::LogKeys;
pub use note::{NoteSignature, SignedNote, Vkey};
pub use opening::ShardBegin;
pub use origin::Origin;
pub use policy::{Checked, Policy, PolicyLog, PolicyWitness};
pub use proof::{HashSource, Leaves, consistency, inclusion, root_at, verify_consistency, verify_inclusion};
pub use receipt::Receipt;
pub use record::{Actor, Attestation, Body, EncodedRecord, RECORD_VERSION, Record};
pub use retain::{Oldest, Releasable, WhyKept};
pub use roll::Roll;
pub use search::{Cursor, Hit, Issued, LiveCertificate, LiveQuery, LiveSerial, Page, Query, Search};
pub use seg::seal::{Sealer, Segments};
pub use succession::{Succession, SuccessionClaim, follow};
pub use tile_dir::{LedgerTreeWriter, TreeFile, TreePath, TreeReport, TreeWriter, verify_ledger_tree, verify_tree};
pub use tiles::{TILE_WIDTH, Tree, tile_path};
pub use tlog_proof::TlogProof;
pub use tree::{Frontier, Hash, empty_root, leaf_hash, node_hash};
pub use trees::Trees;
pub use verify::{RecordCheck, ShardReport, verify};
pub use verify_index::verify_indexes;
pub use witness::{
    AddCheckpoint, LogVerdict, SIZE_CONTENT_TYPE, TreeHead, Verdict, cosignature_in, cosigned, decide, decide_log,
    size_in,
};
