//! Generated wire code, the list of every RPC, conversions between wire fields and identity types, and what both ends of a call
//! do alike.
//!
//! Richer conversions (entries, records, bundles) live at the edge that needs them. The generated files are checked in
//! and a test regenerates and compares them; edit `proto/` and run `cargo xtask proto`.

mod convert;
mod crl_assembly;
mod r#gen;
pub mod limits;
mod metadata;
mod rpcs;

pub use convert::{FieldError, issuer_key_id, request_id, serial, spiffe_id};
pub use crl_assembly::CrlAssembly;
pub use r#gen::{DESCRIPTORS, envoy_auth, envoy_type, google_rpc, sds, v1, workload};
pub use metadata::{Garbled, check_metadata};
pub use rpcs::{Rpc, every_rpc};
