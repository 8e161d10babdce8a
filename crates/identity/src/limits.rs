//! Every limit of a name, each with its reason.

/// Longest trust domain name in bytes (SPIFFE-ID, section 2.1: a validator must accept 255).
pub const TRUST_DOMAIN_BYTES_MAX: usize = 255;
/// Longest SPIFFE ID in bytes (SPIFFE-ID, section 2.3: must accept 2048, should not make longer ones).
pub const SPIFFE_ID_BYTES_MAX: usize = 2048;
/// Longest agent or replica name in bytes: one path segment that also fits a file name and a log column.
pub const NODE_NAME_BYTES_MAX: usize = 64;
/// Longest entry name in bytes: fits a file name together with a suffix.
pub const ENTRY_NAME_BYTES_MAX: usize = 128;
/// Longest selector in bytes: a path selector may carry a whole `PATH_MAX` / 4.
pub const SELECTOR_BYTES_MAX: usize = 1024;
/// Selectors of one kind that are told beside the one that failed: a process may be in thousands of groups.
pub const WHY_NOT_SHOWN_MAX: usize = 4;
/// Shortest lifetime of a certificate in seconds: below it renewal at half life cannot ride out one retry.
pub const TTL_SECONDS_MIN: u32 = 60;
/// Longest lifetime of a certificate in seconds (24 h): longer ones are the long-lived secrets this product replaces.
pub const TTL_SECONDS_MAX: u32 = 86_400;
/// Longest serial number in octets (RFC 5280, section 4.1.2.2).
pub const SERIAL_OCTETS_MAX: usize = 20;
/// Longest audience of a JWT-SVID in bytes: a URL of a service; sixteen of them keep a token below the 8 KB of a header.
pub const JWT_AUDIENCE_BYTES_MAX: usize = 255;
/// Audiences of one JWT-SVID: a token for many services is one that each of them can use against the others.
pub const JWT_AUDIENCES_MAX: usize = 16;
