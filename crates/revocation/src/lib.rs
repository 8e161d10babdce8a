//! The revoked set, its signed filter and the verdict on one certificate.
//!
//! A certificate is known by (issuer key id, serial). The CA folds its records into a [`RevokedSet`] and signs snapshots,
//! add-only deltas and heartbeats; a [`Replica`] verifies them and publishes an immutable [`View`], which answers for one
//! certificate without a lock, an allocation or a system call. "No filter" is never "nothing is revoked".
//!
//! [`View::check_batch`] is the fast door for many certificates. With the feature `simd` it has the processor fetch ahead, which
//! helps where the filter is larger than its caches.
//!
//! Nothing here reads a clock or opens a socket: `now` is an argument. `FORMAT.md` writes every byte down.

mod body;
mod bucket;
mod delegation;
mod error;
mod fingerprint;
mod freshness;
mod header;
mod lines;
mod map_layout;
mod map_lineage;
mod map_reader;
mod map_writer;
mod octets;
mod pulse;
mod query;
mod record;
mod replica;
mod rice;
mod road;
mod rule_marks;
mod rules;
mod segment;
mod set;
mod set_body;
mod set_log;
mod shown;
mod signer;
mod view;
mod view_issuer;
mod view_news;
mod words;

pub mod limits;

pub use bucket::Bucket;
pub use delegation::{Delegation, DelegationStatement, VerifiedDelegation};
pub use error::RevocationError;
pub use fingerprint::{EntryKey, SerialKind};
pub use freshness::{Freshness, FreshnessPolicy};
pub use header::{SetHash, TrustDomainHash};
pub use map_reader::{MapOwner, MapReader};
pub use map_writer::MapWriter;
pub use query::{Decision, Query, Verdict, Why};
pub use record::{Exception, IssuerCoverage, LiveSerial, Revocation, RevokedEntry, RevokedSerial};
pub use replica::{Added, Applied, Beat, Position, Replica, ViewHandle};
pub use rules::{Rule, RuleTarget};
pub use set::RevokedSet;
pub use shown::{Missing, Shown};
pub use signer::{RevocationKey, RevocationKeyId, Terms};
pub use view::View;
