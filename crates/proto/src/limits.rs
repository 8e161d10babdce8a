//! Limits of the wire, the same on both sides.

/// Largest message an agent may send in bytes: 64 asks of under 1 KB.
pub const AGENT_MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Largest message the CA sends on a stream in bytes: 64 chains of two certificates with room to spare.
pub const CA_MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// Largest request on the admin socket in bytes: 10,000 entries of about 400 bytes.
pub const ADMIN_REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Entries in one `ApplyEntries`: what as many bytes hold, and no more of the smallest.
pub const ENTRIES_PER_REQUEST_MAX: usize = 10_000;
/// Asks in one `Mint`: what one agent may have signed before anybody else has a turn.
pub const ASKS_PER_MINT_MAX: usize = 64;
/// Bytes of one chunk of a revocation snapshot.
pub const SNAPSHOT_CHUNK_BYTES: usize = 256 * 1024;
/// Rows of one page of a listing.
pub const PAGE_ROWS_MAX: u32 = 1000;
/// Rows of a page when the caller names no limit.
pub const PAGE_ROWS_DEFAULT: u32 = 100;
/// Bytes of another trust domain's bundle as it is handed in: 32 KB of certificates in Base64 and room, and it fits a request of
/// 64 KB.
pub const FEDERATED_DOCUMENT_BYTES_MAX: usize = 60 * 1024;
