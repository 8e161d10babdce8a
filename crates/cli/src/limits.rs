//! Every limit of the command line, each with its reason.

use std::time::Duration;

/// Rows a listing prints unless told otherwise: more than anyone reads, less than what fills a terminal's memory.
pub(crate) const LIST_ROWS_DEFAULT: usize = 1_000;
/// Rows a search of the ledger prints unless told otherwise: the newest hundred answer most questions.
pub(crate) const SEARCH_ROWS_DEFAULT: usize = 100;
/// Most rows of one command: a million rows of 500 bytes are half a gigabyte in memory.
pub(crate) const ROWS_MAX: usize = 1_000_000;
/// Empty pages in a row before a listing ends with a page token instead: a filter that matches little must still end.
pub(crate) const EMPTY_PAGES_MAX: usize = 1_000;
/// One call on the admin socket takes at most this long: a command that takes something away waits up to 30 s for its turn,
/// one that rolls the log 20 s for the state's snapshot, and either may be decided and written anew before the CA says no. A
/// command that is given up here may still be done there.
pub(crate) const CALL_WAIT: Duration = Duration::from_secs(90);
/// Entries that one command changes; the CA's own limit is the same. A longer set is sent in parts.
pub(crate) const ENTRIES_PER_COMMAND_MAX: usize = 512;
/// Largest answer read in bytes: a page of 1,000 entries at their limit of 16 KiB of text each, and room.
pub(crate) const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Longest wait of one status call; the server's own limit is 10 s.
pub(crate) const STATUS_WAIT_MAX: Duration = Duration::from_secs(1);
/// How long a revocation is watched unless told otherwise: agents enforce in far less than a second.
pub(crate) const ENFORCE_WAIT_DEFAULT: Duration = Duration::from_secs(5);
/// How long a proof waits for the checkpoint that covers its record, which is signed each second.
pub(crate) const CHECKPOINT_WAIT: Duration = Duration::from_secs(5);
/// Pause between two looks for that checkpoint.
pub(crate) const CHECKPOINT_PAUSE: Duration = Duration::from_millis(100);
/// Bytes of a file with verifier keys: a line of 500 bytes for each monthly shard of ten years.
pub(crate) const VKEY_FILE_BYTES_MAX: u64 = 64 * 1024;
/// Bytes of one written TOML file: half of what one file may have when it is read again.
pub(crate) const WRITTEN_TOML_BYTES_MAX: usize = 512 * 1024;
/// Records that `audit tail` begins with at most: each is fetched by a call of its own.
pub(crate) const TAIL_ROWS_MAX: usize = 1_000;
/// Records of one batch out of a ledger folder: at 1 KB each a quarter of a megabyte.
pub(crate) const OFFLINE_BATCH_RECORDS: usize = 256;
/// Such batches that wait for whoever takes them, so that verification goes on while one is written.
pub(crate) const OFFLINE_BATCHES_QUEUE: usize = 4;
/// Octets of an export that are written at once.
pub(crate) const EXPORT_WRITE_BYTES: usize = 256 * 1024;
/// Writes that wait for a slow reader of standard output; past it the next one waits, and so does the CA.
#[cfg(not(test))]
pub(crate) const LINES_QUEUE: usize = 4;
/// Records of one identity's history on one screen at most; a search shows more.
pub(crate) const HISTORY_ROWS_MAX: usize = 1_000;
/// Revocations looked at for those that name an identity: one page of the CA, the newest.
pub(crate) const REVOCATIONS_LOOKED_AT: u32 = 1_000;
/// Lists of revoked certificates of one CA: its root, and a few issuing keys that overlap.
pub(crate) const CRLS_MAX: usize = 64;
/// Bytes of a file with a certificate or its chain: four certificates of 16 KB in base64.
pub(crate) const CERTIFICATE_FILE_BYTES_MAX: usize = 128 * 1024;
/// Bytes of a file of findings: a scan of a large repository is a few megabytes.
pub(crate) const FINDINGS_FILE_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Findings in one file, most of which are about other secrets.
pub(crate) const FINDINGS_MAX: usize = 100_000;
/// Fingerprints that the CA is asked about at once; its own limit is the same.
pub(crate) const FINGERPRINTS_MAX: usize = 10_000;
/// Chains of one report of certificates that were seen; the agent's own limit is the same.
pub(crate) const SEEN_CHAINS_MAX: usize = 16;
/// An agent answers the first question within this time: it waits up to 5 s for certificates that are being made.
pub(crate) const WORKLOAD_FIRST_WAIT: Duration = Duration::from_secs(15);
/// Bytes of one answer of an agent: identities, bundles and up to 1 MiB of CRLs.
pub(crate) const WORKLOAD_BYTES_MAX: usize = 4 * 1024 * 1024;
/// First wait before an agent is asked again whose stream ended; doubled at each failure.
pub(crate) const WORKLOAD_AGAIN_FIRST: Duration = Duration::from_millis(250);
/// Longest such wait.
pub(crate) const WORKLOAD_AGAIN_MAX: Duration = Duration::from_secs(10);
/// Bytes of a file with a chain and its key.
pub(crate) const SVID_FILE_BYTES_MAX: u64 = 128 * 1024;
/// Bytes of the path of a Unix socket (unix(7)): `sun_path` has 108, the last of them zero.
pub(crate) const SOCKET_PATH_BYTES_MAX: usize = 107;
/// A program that is to be started anew ends within this time after SIGTERM, or is killed: what systemd gives by default is
/// longer than a certificate of a minute has left.
pub(crate) const EXEC_STOP_WAIT: Duration = Duration::from_secs(10);
/// Time between two tries to write the files of a program that `exec` runs: room that was made is used soon, and a full disk
/// is not asked without end.
pub(crate) const EXEC_WRITE_AGAIN: Duration = Duration::from_secs(5);
