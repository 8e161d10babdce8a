//! Every limit of the ledger, each with its reason.

use std::time::Duration;

/// Largest encoded record in bytes: entry bundles carry a 16-bit length (C2SP tlog-tiles), and 4 KB are left for growth.
pub const RECORD_BYTES_MAX: usize = 60 * 1024;
/// Records of one group: at 1 KB each a group is half a megabyte, one write that a disk takes in about a millisecond.
pub const GROUP_RECORDS_MAX: usize = 512;
/// Records with which a group is no longer kept open for more that was announced: past it a flush costs each of them less
/// than a microsecond.
pub const GROUP_RECORDS_ENOUGH: usize = 256;
/// Longest time a group is kept open for more that was announced: a tenth of what callers wait for their turn when there
/// are so many.
pub const GROUP_WAIT_MAX: Duration = Duration::from_millis(10);
/// Record bytes of one group: bounds the time between two commits and the memory of the write buffer.
pub const GROUP_BYTES_MAX: usize = 1024 * 1024;
/// Records that may wait for the committer: 16 whole groups, about 20 ms of work on a good disk.
pub const QUEUE_RECORDS_MAX: usize = 16 * GROUP_RECORDS_MAX;
/// Record bytes that may wait for the committer: sixteen groups of the largest size.
pub const QUEUE_BYTES_MAX: usize = 16 * GROUP_BYTES_MAX;
/// Size at which a write-ahead file is closed and the next begun: recovery reads one, in a tenth of a second.
pub const WAL_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Space reserved at a time: one second of 4,000 records of 1 KB, four milliseconds of writing.
pub const RESERVE_BYTES: u64 = 4 * 1024 * 1024;
/// Groups of this mean size or more get room without zeros: a virtual disk was then 1.3 times as fast with groups of 400 KB, and
/// a tenth slower with groups of 50 KB.
pub const LARGE_GROUP_BYTES: u64 = 192 * 1024;
/// Steps of space that are reserved at a time for such groups: 16 MB, a tenth of a second of them.
pub const LARGE_STEPS: u64 = 4;
/// Recent records kept in memory for followers: a follower that lags by less than this reads no file.
pub const CACHE_RECORDS_MAX: usize = 8192;
/// Bytes of recent records kept in memory: sixteen groups of half a megabyte.
pub const CACHE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Records that one read returns at most: followers work in groups as the committer does.
pub const READ_RECORDS_MAX: usize = 4096;
/// Bytes that one read returns at most (one record is returned even when it is alone over it, which it cannot be).
pub const READ_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A position is remembered for every so many records of a file: 20 bytes for 128 records, and a read skips fewer.
pub const POSITION_EVERY: u64 = 128;
/// Largest signed note accepted: text of three lines and the sixteen signatures a verifier must accept.
pub const NOTE_BYTES_MAX: usize = 128 * 1024;
/// Largest statement about the log after a log: three lines and a signature, with names of 345 bytes, take 1.3 KB.
pub const SUCCESSION_BYTES_MAX: usize = 4096;
/// Logs that a witness follows from one log of its policy by such statements: the monthly shards of 20 years.
pub const FOLLOWED_LOGS_MAX: usize = 256;
/// Signatures of one note that are looked at (C2SP signed-note: at least 16 must be).
pub const NOTE_SIGNATURES_MAX: usize = 64;
/// Checkpoints that are kept of one shard: a segment each twenty seconds in a month of thirty-one days, which are 3,300 records
/// a second, and as many again for starts.
pub const KEPT_CHECKPOINTS_MAX: usize = 262_144;
/// Largest policy file: a line of 500 bytes for each month of 20 years.
pub const POLICY_BYTES_MAX: usize = 128 * 1024;
/// Logs of a policy: the monthly shards of 20 years.
pub const POLICY_LOGS_MAX: usize = 256;
/// Witnesses of a policy: as many as can sign one note beside its log (C2SP tlog-policy: at least 32).
pub const POLICY_WITNESSES_MAX: usize = NOTE_SIGNATURES_MAX - 1;
/// Groups of a policy: one for each witness (C2SP tlog-policy: at least 32).
pub const POLICY_GROUPS_MAX: usize = POLICY_WITNESSES_MAX;
/// Hashes of one consistency proof that a witness takes (C2SP tlog-witness, add-checkpoint).
pub const WITNESS_PROOF_HASHES_MAX: usize = 63;
/// Largest body of an add-checkpoint request: the old size, 63 lines of 45 octets and the largest note, rounded up.
pub const ADD_CHECKPOINT_BYTES_MAX: usize = NOTE_BYTES_MAX + 4096;
/// Largest tlog-proof: the largest note, the largest record in base64, and 64 lines of hashes, rounded up.
pub const TLOG_PROOF_BYTES_MAX: usize = 256 * 1024;
/// Levels of a tree of 2^64 leaves; no proof has more hashes.
pub const PROOF_HASHES_MAX: usize = 64;
/// Records of one sealed segment, and of one chunk of the search index: 256 tiles of level 0.
pub const SEGMENT_RECORDS: usize = 65_536;
/// Full segments that wait unsealed while the log is busy: a quarter of a gigabyte of write-ahead files, which a start has to read.
pub const UNSEALED_SEGMENTS_MAX: u64 = 4;
/// Largest snapshot of a state: a million entries and agents of 1 KB each, and the revocations of years.
pub const SNAPSHOT_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// Rows that one page of a search returns at most.
pub const PAGE_ROWS_MAX: usize = 1000;
/// Records a page looks at before it returns with a cursor: bounds the time a query holds the index, about 20 ms.
pub const PAGE_SCAN_MAX: usize = 4_000_000;

/// How long the next checkpoint waits for the witnesses of the stored one: as long as one may take to answer.
pub const CHECKPOINT_HOLD_MAX: Duration = Duration::from_secs(5);

/// How often a held checkpoint is looked at again: well within the shortest time between two.
pub(crate) const CHECKPOINT_HOLD_LOOK: Duration = Duration::from_millis(20);
