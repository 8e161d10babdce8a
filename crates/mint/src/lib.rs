//! Grant -> Prepared -> Sealed -> Issued; the only room with a CA private key.
//!
//! Each stage is a type with private fields that is moved by value into the next one, so skipping or repeating a stage
//! does not compile. A certificate says what the [`mintage_policy::Grant`] says; from a signing request comes the
//! public key and nothing else. It is checked before it is signed, and its bytes leave only against the receipt of its
//! own record.

mod body;
mod ca_key;
mod crl;
mod csr;
mod dates;
mod error;
mod issuer;
mod jwt;
mod jwt_key;
mod keyfile;
#[cfg(test)]
mod kit;
mod lint;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod pipeline_tests;
mod prepare;
mod root;
mod sealed;
mod tbs;

pub mod limits;

pub use ca_key::{CaKey, DELEGATION_LABEL};
pub use crl::{CrlEntry, sign_crl};
pub use csr::{KeyPolicy, ProvenKey, prove_possession};
pub use error::{CsrError, MintError};
pub use issuer::Issuer;
pub use jwt::{AwaitingJwt, IssuedJwt, PreparedJwt, SealedJwt, prepare_jwt};
pub use jwt_key::{JwtSigner, jwt_kid};
pub use keyfile::{KeyProtection, decode_key_file, decrypt_key_file, encode_key_file, encrypt_key_file};
pub use mintage_svid::KeyKind;
pub use prepare::{Prepared, prepare};
pub use root::{CaDates, make_intermediate, make_root};
pub use sealed::{AwaitingReceipt, Issued, RecordContext, Sealed};
