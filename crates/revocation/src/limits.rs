//! Every limit of this crate, each with its reason.

use std::time::Duration;

/// Largest body of a signed object in bytes: 60 M revocations at 4.2 bytes, and still one ordinary allocation.
pub const BODY_BYTES_MAX: usize = 256 << 20;
/// Most issuing keys in one set: a cell's replicas with weekly keys for a year fit many times over.
pub const ISSUERS_MAX: usize = 4_096;
/// Most segments in one set: 60 issuers with every minute, hour and week bucket in use.
pub const SEGMENTS_MAX: usize = 65_536;
/// Most rules in one set: more means that rules are used where serials belong; the check stays one hash look-up each.
pub const RULES_MAX: usize = 100_000;
/// Most exceptions in one set: with 48-bit fingerprints about 0.4 are expected at 1 M revoked of 100 M live.
pub const EXCEPTIONS_MAX: usize = 65_536;
/// Most serials in one set: keeps every count inside 32 bits and the canonical set inside some GB.
pub const SERIALS_MAX: usize = 60_000_000;
/// Most serials in one revocation: far above what one ledger record holds.
pub const SERIALS_PER_REVOCATION_MAX: usize = 65_536;
/// Most rules in one revocation: far above what one ledger record holds.
pub const RULES_PER_REVOCATION_MAX: usize = 4_096;
/// Longest text of a rule in bytes: a SPIFFE ID of 2,048 bytes and `/*`.
pub const RULE_SUBJECT_BYTES_MAX: usize = 2_050;
/// Records that deltas can be made from; a follower further behind takes the snapshot, which is cheaper anyway.
pub const LOG_RECORDS_MAX: usize = 8_192;
/// Serials kept for deltas; bounds the memory of the record log at about 60 MB.
pub const LOG_SERIALS_MAX: usize = 1_000_000;
/// Longest delegation in bytes: 160 fixed, and the longest ASN.1 form of a P-256 signature is 72.
pub const DELEGATION_BYTES_MAX: usize = 512;
/// Most delegated keys a follower keeps: every replica of a cell with an old and a new key.
pub const DELEGATED_KEYS_MAX: usize = 256;
/// Largest map of a node in bytes: 60 M revocations with room to grow.
pub const MAP_BYTES_MAX: u64 = 1 << 30;
/// Serials that a segment remembers as its last ones, so that a map is brought up without looking at all of it: more than one
/// delta usually adds, 32 KB.
pub const RECENT_SERIALS_MAX: usize = 4_096;
/// Most deltas saved behind one snapshot; past it the saved set is written anew.
pub const SAVED_DELTAS_MAX: usize = 256;

/// A bucket is dropped this long after its end, so that no clock in the fleet still honours its certificates.
pub const DROP_GRACE: Duration = Duration::from_secs(600);
/// How far in the future a signed object may be dated: the skew between two hosts that keep time.
pub const FUTURE_SKEW: Duration = Duration::from_secs(60);
/// A heartbeat younger than this is fresh: twelve beats of 5 s may be lost.
pub const FRESH_FOR: Duration = Duration::from_secs(60);
/// Time between heartbeats.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(5);
/// A reader looks for a newer map when the last heartbeat is older than this: two beats were missed.
pub const MAP_LOOK_AFTER: Duration = Duration::from_secs(10);
/// Least time between two looks for a newer map, so that a dead agent costs a verifier one look a second at most.
pub const MAP_LOOK_EVERY: Duration = Duration::from_secs(1);
/// CAs made anew whose maps one reader has left: each needs every agent joined again, and takes 128 KB here at most. Past it the
/// reader keeps its map, which grows old, until its process is started again.
pub const MAP_LINEAGES_MAX: usize = 16;
/// A reader that copies the map does so this often: as often as heartbeats come.
pub const MAP_COPY_EVERY: Duration = Duration::from_secs(5);
