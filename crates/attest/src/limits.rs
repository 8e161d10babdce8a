//! Every limit of attestation, each with its reason.

use std::time::Duration;

/// Longest join token in bytes: 8 addresses and 8 roots need 3.5 KB, and a page of a terminal shows it.
pub const TOKEN_BYTES_MAX: usize = 4096;
/// Most CA addresses in a join token: two for each of a few sites.
pub const TOKEN_ADDRESSES_MAX: usize = 8;
/// Longest CA address in bytes: a DNS name of 253 with a port, one length octet.
pub const TOKEN_ADDRESS_BYTES_MAX: usize = 255;
/// Most root hashes in a join token: every active and prepared root, with room for overlapping rotations.
pub const TOKEN_ROOTS_MAX: usize = 8;
/// How long after its first use the same key may use a token again: a day's outage after a lost reply. A thief of the
/// token gains nothing by it, since he lacks the key.
pub const TOKEN_RETRY_WINDOW: Duration = Duration::from_secs(24 * 3600);
/// How long after expiry an agent's last key is still believed on re-joining: a long week-end and some.
pub const REJOIN_WINDOW: Duration = Duration::from_secs(7 * 24 * 3600);
/// Longest signature of a re-join in bytes: ECDSA P-384 in DER takes at most 104.
pub const SIGNATURE_BYTES_MAX: usize = 128;
/// Longest executable that is hashed, in bytes: half a second of SHA-256; larger ones exist but are rare.
pub const EXECUTABLE_BYTES_MAX: u64 = 256 << 20;
/// Most executables whose digest is remembered: a node runs fewer distinct workloads.
pub const EXECUTABLES_CACHED_MAX: usize = 1024;
/// Most bytes read from `/proc/<pid>/stat` or `status`: the kernel writes 400 bytes and 1.5 KB, more with many groups.
pub const PROC_BYTES_MAX: u64 = 1 << 20;
/// Most supplementary groups that become selectors: a process in more is refused rather than half described.
pub const GROUPS_MAX: usize = 1024;
