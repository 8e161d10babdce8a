//! Every limit of this crate, each with its reason in one line.

/// Bytes of one TOML file: 1,000 entries of 1 KB each; more belongs in a second file.
pub const TOML_FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Files read from one directory: a file per service, for a thousand services.
pub const TOML_FILES_MAX: usize = 1_000;

/// Problems collected before reading stops: more than a screen of them helps nobody.
pub const PROBLEMS_MAX: usize = 100;

/// Entries of one set (a directory, an import, one apply): 100,000 entries of 1 KB are 100 MB at most.
pub const ENTRIES_MAX: usize = 100_000;

/// Agent patterns of one entry: a fleet is named by a prefix, not by a list.
pub const AGENTS_PER_ENTRY_MAX: usize = 64;

/// Selectors of one entry: all of them must hold, so more than a few only name the same process again.
pub const SELECTORS_PER_ENTRY_MAX: usize = 32;

/// DNS names of one entry: a certificate of 32 names of 60 bytes grows by 2 KB, which every handshake carries.
pub const DNS_NAMES_PER_ENTRY_MAX: usize = 32;

/// Octets of a DNS name in text form (RFC 1035 section 2.3.4, without the root label).
pub const DNS_NAME_BYTES_MAX: usize = 253;

/// Octets of a DNS label (RFC 1035 section 2.3.4).
pub const DNS_LABEL_BYTES_MAX: usize = 63;

/// Characters of a common name (`ub-common-name`, RFC 5280 appendix A.1).
pub const COMMON_NAME_BYTES_MAX: usize = 64;

/// Bytes of the Workload API hint: a word to choose an identity by, not a text.
pub const HINT_BYTES_MAX: usize = 128;

/// Bytes of owner, environment and purpose, each: one line in a table.
pub const NOTE_BYTES_MAX: usize = 256;

/// Bytes of all texts of an entry together: it is copied into each issue record (60 KB with its certificate).
pub const ENTRY_TEXT_BYTES_MAX: usize = 16 * 1024;

/// Bytes of a SPIRE export: 100,000 entries of 640 bytes.
pub const SPIRE_JSON_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Live identities of one public key that are looked at: a key under more than a few identities is refused at the first.
pub const KEY_HOLDERS_MAX: usize = 16;

/// Audiences an entry may name: services one workload calls with tokens; more call for an entry without a list.
pub const JWT_AUDIENCES_PER_ENTRY_MAX: usize = 32;

/// Trust domains an entry may federate with: as many as a CA takes bundles of.
pub const FEDERATES_WITH_PER_ENTRY_MAX: usize = 64;
