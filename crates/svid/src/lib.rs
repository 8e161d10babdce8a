//! X.509-SVID, JWT-SVID, trust-bundle and CRL documents: strict parsing and the SPIFFE rules.
//!
//! A value of a type in this crate has been checked: a [`LeafInfo`] obeys the leaf rules of the X509-SVID standard, a
//! [`TrustBundle`] holds only signing certificates. Path validation, revocation and time are not looked at here; they
//! need a trust bundle, a filter and a clock, which the verifier has. Nothing here signs, does I/O or reads a clock.

mod bundle;
mod certificate;
mod chain;
mod crl;
mod error;
mod frame;
mod jwk;
mod jwt;
mod jwt_write;
mod key;
mod leaf;
#[cfg(test)]
mod samples;
mod signing;

pub mod der;
pub mod limits;
pub mod pem;

pub use bundle::{JwtKey, TrustBundle};
pub use chain::{X509Svid, split_certificates};
pub use crl::Crl;
pub use error::{LeafRule, SvidError};
pub use frame::check_tbs_frame;
pub use jwk::rsa_spki;
pub use jwt::{JwtAlgorithm, JwtHeader, JwtSvid};
pub use jwt_write::{JwtClaims, compact, jwt_rule_date};
pub use key::{
    KeyKind, PublicKey, RSA_BITS_MAX, RSA_BITS_MIN, SignatureAlgorithm, key_matches, key_matches_spki, spki_sha256,
    spki_sha256_of_pkcs1, spki_sha256_of_pkcs8, spki_sha256_of_sec1,
};
pub use leaf::LeafInfo;
pub use signing::{CertInfo, cert_sha256, verify_issued};
