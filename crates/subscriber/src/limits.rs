//! Every limit of this crate, each with its reason.

use std::time::Duration;

/// Publishers of one subscriber: the replicas of a cell, and room.
pub const PUBLISHERS_MAX: usize = 64;
/// Bytes of a publisher's address: a DNS name of 253 bytes, a colon and a port.
pub const ADDRESS_BYTES_MAX: usize = 259;
/// Delegations of one bundle: old and new keys of every replica of a cell.
pub const DELEGATIONS_MAX: usize = 256;
/// Issuing certificates of one bundle: replicas of a cell with overlap.
pub const ISSUERS_MAX: usize = 4096;
/// Bytes of a revocation snapshot: 10 million revocations at 20 octets, and room.
pub const SNAPSHOT_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Bytes of one message from a publisher, with 64 KiB of room for framing.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024 + 64 * 1024;
/// A TCP connection, and then the TLS handshake, are made within this time each.
pub const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// A unary call ends, and a stream opens, within this time.
pub const CALL_WAIT: Duration = Duration::from_secs(10);
/// A snapshot of the largest size arrives within this time, or is asked for again.
pub const SNAPSHOT_WAIT: Duration = Duration::from_secs(120);
/// A stream that brings nothing for so long is dead: four heartbeats of 5 s were due.
pub const SILENCE_MAX: Duration = Duration::from_secs(20);
/// An idle connection is probed this often, and the probe is answered within [`PROBE_WAIT`].
pub const PROBE_EVERY: Duration = Duration::from_secs(10);
/// Longest wait for the answer to a probe.
pub const PROBE_WAIT: Duration = Duration::from_secs(5);
/// The bundle is asked for again this often: nothing pushes it here, and a root is published long before it signs.
pub const BUNDLE_EVERY: Duration = Duration::from_secs(300);
/// Heartbeats in a row of a publisher that is behind what is held, before another one is tried: it has 30 s to catch up,
/// half of what makes the set stale.
pub const BEHIND_BEATS_MAX: u32 = 6;
/// A stream that lived so long was a good one: the next try comes at once.
pub const GOOD_AFTER: Duration = Duration::from_secs(10);
/// First wait after every publisher was tried in vain; doubled each time.
pub const RETRY_FIRST: Duration = Duration::from_millis(250);
/// Longest such wait: a quarter of what makes the set stale.
pub const RETRY_MAX: Duration = Duration::from_secs(15);
