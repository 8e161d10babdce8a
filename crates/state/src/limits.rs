//! Every limit of this crate, each with its reason.

use std::time::Duration;

/// Entries that may stand: 100,000 of 1 KB are 100 MB of memory, and one apply may carry them all.
pub const ENTRIES_MAX: usize = 100_000;
/// Join tokens that may stand: a fleet joins in waves, and each token that is not used is a door left open.
pub const TOKENS_MAX: usize = 10_000;
/// Agents that may stand: one cell's paper target of 50,000 nodes, ten times.
pub const AGENTS_MAX: usize = 500_000;
/// Ended tokens that the record of a new one sweeps away: more than are made, so that the dead never gather.
pub const TOKENS_SWEPT_MAX: usize = 8;
/// Time after its end for which a token is kept, so that a late user is told apart from a stranger in the log.
pub const TOKEN_KEPT_AFTER_END: Duration = Duration::from_secs(24 * 3600);
/// Longest life of a join token: it is carried to a node within a working day or made anew.
pub const TOKEN_LIFE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Shortest life of a join token: less cannot be carried anywhere.
pub const TOKEN_LIFE_MIN: Duration = Duration::from_secs(10);
/// Serials in one revoke record: 70 bytes each, so that the record stays under 60 KB with its rules and its note.
pub const SERIALS_PER_RECORD_MAX: usize = 512;
/// Rules in one revoke record: each may name an ID of 2,048 bytes.
pub const RULES_PER_RECORD_MAX: usize = 8;
/// Serials and rules of one revoke command: an agent with 30 workloads renewed each five minutes for a day has 8,640.
pub const REVOKE_TARGETS_MAX: usize = 100_000;
/// How far a cut lies before the record that makes it: notBefore is backdated by 30 s, so nothing older than the record
/// is missed by a cut 28 s before it, and what replaces the killed need not begin in the future.
pub const CUT_BEFORE_NOW: Duration = Duration::from_secs(28);
/// Other trust domains whose bundles may stand: partners are a list kept by people, and each agent gets all of them.
pub const FEDERATED_MAX: usize = 64;
/// Bytes of the name of another trust domain: its bundle is a file of that name, which with its ending has 255 at most.
pub const FEDERATED_NAME_BYTES_MAX: usize = 200;
/// Octets of one bundle's certificates, keys and key ids: thirty roots of 1 KB, and it stays one record of 60 KB.
pub const FEDERATED_OCTETS_MAX: usize = 32 * 1024;
/// Octets of all of them together: they go to every agent in one message, of which 1 MB is the limit.
pub const FEDERATED_OCTETS_SUM_MAX: usize = 256 * 1024;
/// Records remembered of one rule, each of which strikes more than those before it: an identity that is revoked more often is told
/// with the later dates.
pub const MARKS_PER_RULE_MAX: usize = 8;
/// Entries changed by one command: they become one group of the ledger (512 records).
pub const ENTRIES_PER_COMMAND_MAX: usize = 512;
/// Bytes of an operator's reason or note: one line in a table.
pub const NOTE_BYTES_MAX: usize = 256;
/// Applied records whose refusal is remembered for the callers that wait: far more than can wait at a time.
pub const REFUSALS_MAX: usize = 4_096;
/// Records read from the journal at a time: a few groups, so that a long catch-up publishes as it goes.
pub const READ_RECORDS: usize = 2_048;
/// Threads that read and decode for a rebuild: two keep up with the one that applies.
pub const DECODERS: usize = 2;
/// Batches of records that each of them decodes ahead of the one being applied: enough that neither side waits for a long one.
pub const BATCHES_AHEAD: usize = 2;
/// Time between two flushes of the store: what a crash loses is replayed from the ledger in milliseconds.
pub const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// Changed objects after which the store is flushed at once: bounds the memory of what waits.
pub const FLUSH_OBJECTS: usize = 4_096;
/// Time between two flushes when only certificates were issued: no object changed, and 10 s are replayed in no time.
pub const FLUSH_MARK_EVERY: Duration = Duration::from_secs(10);
/// Changed objects that may wait for a store that fails; past it the store is given up until the next start, which
/// replays from where it stopped.
pub const PENDING_OBJECTS_MAX: usize = 200_000;
/// Longest wait for a snapshot of the state, during which nothing is appended: a million objects are written and read in less.
pub const SNAPSHOT_WAIT: Duration = Duration::from_secs(20);
/// Memory of sled's page cache: the store is read once at start, so the default of 1 GB is of no use.
pub const SLED_CACHE_BYTES: u64 = 8 * 1024 * 1024;
