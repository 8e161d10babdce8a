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
/// One call on the admin socket takes at most this long: the longest is a wait of 10 s for agents.
pub(crate) const CALL_WAIT: Duration = Duration::from_secs(30);
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
