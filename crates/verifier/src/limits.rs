//! Every limit of this crate, each with its reason. All hold before the first signature is verified.

/// Most certificates a peer may send: leaf, three levels of issuers and a root make five; the rest is room for one
/// cross-signed spare. rustls itself would take whatever fits 64 KB.
pub const CHAIN_CERTS_MAX: usize = 8;

/// Largest single certificate in bytes: a 2,048-byte SPIFFE ID and a few DNS names fit in 4 KB.
pub const CERT_BYTES_MAX: usize = 16 * 1024;

/// Largest chain in bytes, all certificates together: below the 64 KB at which rustls refuses the message itself.
pub const CHAIN_BYTES_MAX: usize = 48 * 1024;

/// Most trust domains in one snapshot: federation is a list kept by people; a lookup costs the same at any size.
pub const TRUST_DOMAINS_MAX: usize = 1024;

/// Most roots of one trust domain: two are live during a rotation; webpki tries each of the same name in turn.
pub const ROOTS_PER_DOMAIN_MAX: usize = 64;

/// Most exact ids or prefixes in one list of allowed ids: a prefix list is scanned, so this bounds a handshake.
pub const ALLOWED_IDS_MAX: usize = 4096;

/// Most pinned root hashes of a join: every active and prepared root, of which there are two to four.
pub const PINNED_ROOTS_MAX: usize = 16;
