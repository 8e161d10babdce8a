//! Every limit of this crate, each with its reason.

use std::time::Duration;

/// Bytes of a signing request: P-256 needs 280, RSA-4096 about 1,700. Checked before anything is parsed.
pub const CSR_BYTES_MAX: usize = 8 * 1024;

/// Attributes of a signing request: tools write one or two, all are ignored.
pub const CSR_ATTRIBUTES_MAX: usize = 16;

/// How far notBefore lies in the past, so that peers whose clocks are behind accept a new certificate at once.
pub const BACKDATE: Duration = Duration::from_secs(30);

/// A leaf ends at least this long before its issuer, so that no path is half expired.
pub const ISSUER_MARGIN: Duration = Duration::from_secs(60);

/// A certificate with less life than this is refused: nobody could renew it in time.
pub const LIFE_MIN: Duration = Duration::from_secs(60);

/// Lifetime of a root: 10 years of 365.25 days.
pub const ROOT_LIFETIME: Duration = Duration::from_secs(3652 * 86_400 + 43_200);

/// Lifetime of an issuing CA certificate: 90 days.
pub const INTERMEDIATE_LIFETIME: Duration = Duration::from_secs(90 * 86_400);

/// 9999-12-31T23:59:59Z in seconds since 1970: the last instant X.509 can write (RFC 5280, section 4.1.2.5).
pub const LAST_SECOND: i64 = 253_402_300_799;

/// Revoked certificates in one CRL: with their reasons 13.3 MB of DER, below the 16 MB at which lengths need another octet
/// that strict readers refuse.
pub const CRL_ENTRIES_MAX: usize = 250_000;

/// Bytes of a delegation statement: its fixed form has under 200.
pub const DELEGATION_BYTES_MAX: usize = 1024;

/// Bytes of a passphrase. The least keeps guessing expensive beside scrypt; the most bounds a file read by mistake.
pub const PASSPHRASE_BYTES_MIN: usize = 8;
/// See [`PASSPHRASE_BYTES_MIN`].
pub const PASSPHRASE_BYTES_MAX: usize = 1024;
