//! Every size this crate accepts, with the reason for the number. All are checked before anything is parsed.

use std::time::Duration;

/// Bytes of one certificate. A SPIFFE leaf is about 0.5 KB and a 4096-bit RSA root about 2 KB; 16 KB leaves room for
/// foreign roots with policies and still bounds the work of one parse.
pub const CERTIFICATE_BYTES_MAX: usize = 16 * 1024;

/// Certificates in one SVID chain: leaf, three levels of intermediates and a root, doubled.
pub const CHAIN_LENGTH_MAX: usize = 8;

/// Bytes of a whole SVID chain: what fits one agent message of 64 KB beside its other fields.
pub const CHAIN_BYTES_MAX: usize = 48 * 1024;

/// Subject alternative names in one leaf: policy allows far fewer; more would only cost time.
pub const SAN_COUNT_MAX: usize = 128;

/// Bytes of a PKCS#8 private key: RSA-4096 needs 2.4 KB.
pub const PRIVATE_KEY_BYTES_MAX: usize = 8 * 1024;

/// Bytes of one PEM document or JWK Set: a bundle of all roots below, with room.
pub const DOCUMENT_BYTES_MAX: usize = 1024 * 1024;

/// X.509 roots in one trust bundle: a domain that rotates yearly and overlaps for ten years needs 20.
pub const BUNDLE_ROOTS_MAX: usize = 64;

/// JWT keys in one trust bundle: one per replica and rotation, with room.
pub const BUNDLE_JWT_KEYS_MAX: usize = 256;

/// Elements of a JWK Set looked at, known or not.
pub const JWKS_ELEMENTS_MAX: usize = 1024;

/// Bytes of a key id: it is compared and logged, never parsed.
pub const KEY_ID_BYTES_MAX: usize = 256;

/// Bytes of a serialized JWT-SVID: it travels in HTTP headers, which most servers cap at 8 KB to 16 KB.
pub const JWT_BYTES_MAX: usize = 16 * 1024;

/// Audiences in one JWT-SVID.
pub const JWT_AUDIENCES_MAX: usize = 64;

/// Nesting of constructed DER values: X.509 needs 9.
pub const DER_DEPTH_MAX: usize = 16;

/// Bytes of one revocation list: 250,000 entries with reasons have 13.3 MB; from 16 MB on, lengths need an octet more than
/// the strict reader takes.
pub const CRL_BYTES_MAX: usize = 0xff_ffff;

/// How far before its `iat` a rule of revocation places a JWT-SVID. A rule's cut lies 28 s before the rule, which strikes
/// certificates because they are backdated; tokens are not.
pub const JWT_RULE_SHIFT: Duration = Duration::from_secs(28);
